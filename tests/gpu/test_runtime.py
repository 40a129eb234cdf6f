"""The runtime's own backend on plans: what it gives equals ONNX Runtime's, however it launches, shares and caches."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.export.plans.build import BuildOptions
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.array_cache import ArrayCache
from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.backends.session import KeyValueCache
from internvl_edge.runtime.backends.tensorrt import open_tensorrt, unavailable
from internvl_edge.runtime.backends.tensorrt.session import TensorRTSession
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.cache_folder import cache_folder
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.stages import COMPUTE, DEVICE_TO_HOST, ENQUEUE, HOST_TO_DEVICE, Stages
from internvl_edge.runtime.targets.estimate import Limits
from internvl_edge.runtime.tasks.caption_decoder import CaptionDecoder
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.search import generate
from tests.gpu.agree import Record, require_agreement
from tests.gpu.built import Built
from tests.gpu.cases import CASES, PROMPT_IDS, Case, case_of
from tests.gpu.marks import GPU
from tests.layer_reader import read_layers

pytestmark = GPU

_RUNS = 50
"""Number of runs whose medians are recorded, after as many that do not count."""
_CALLS = 500
"""In which memory would show that it grows."""
_KEPT_BYTES = 4 << 20
"""What the driver may take beside our buffers: it gives memory away in pieces of 2 MiB."""


@pytest.fixture(scope="module")
def demo(built: Callable[..., Built], device: Device) -> Built:
    """Plans of the demo in fp16, each graph in one piece."""
    return _usable(built("fp16", BuildOptions()), device)


@pytest.fixture(scope="module")
def reference(demo: Built) -> InternVL:
    """The same bundle on ONNX Runtime."""
    return InternVL.open(demo.bundle, "onnxruntime")


@pytest.fixture(autouse=True)
def _own_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep compiled kernels of the checks out of the user's cache."""
    monkeypatch.setenv("INTERNVL_EDGE_CACHE", str(tmp_path / "kernels"))
    yield
    gc.collect()


def _usable(built: Built, device: Device) -> Built:
    reason = unavailable(Bundle.open(built.bundle), built.flavour.name, SessionOptions())
    assert reason is None, reason
    return built


def _open(demo: Built, graph: str, options: SessionOptions | None = None) -> TensorRTSession:
    return open_tensorrt(Bundle.open(demo.bundle), graph, options or SessionOptions(), demo.flavour.name)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("limits", [Limits(), Limits(host_bytes=1)], ids=["whole", "parts"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_a_session_agrees_with_onnx_runtime(
    built: Callable[..., Built], device: Device, name: str, precision: str, limits: Limits, record_property: Record
) -> None:
    """Four runs: enqueued, enqueued and captured, replayed twice."""
    demo = _usable(built(precision, BuildOptions(limits=limits)), device)
    case = case_of(InternVL.open(demo.bundle, "onnxruntime"), name)
    with closing(_open(demo, case.graph)) as session:
        first, *others = [session.run(case.inputs) for _ in range(4)]
        record_property("plans", session.settings["plans"])
        record_property("cuda_graph", session.settings["CUDA graph"])
    require_agreement(first, case.expected, precision, record_property)
    for other in others:
        _require_equal(other, first)


@pytest.mark.parametrize("graph", ["vision", "text"])
def test_a_cuda_graph_changes_times_alone(
    demo: Built, reference: InternVL, graph: str, record_property: Record
) -> None:
    case, outputs = case_of(reference, graph), {}
    for cuda_graph in (True, False):
        with closing(_open(demo, graph, SessionOptions(cuda_graph=cuda_graph))) as session:
            for _ in range(_RUNS):
                outputs[cuda_graph] = session.run(case.inputs)
            _record_times(session, case, f"{'replayed' if cuda_graph else 'enqueued'}_", record_property)
            assert session.settings["CUDA graph"] == ("on" if cuda_graph else "off")
    _require_equal(outputs[True], outputs[False])


def test_shapes_in_turn_give_what_each_gives_alone(demo: Built, reference: InternVL) -> None:
    """Batches grow and shrink, so that buffers move under graphs that were captured."""
    pixels = case_of(reference, "vision").inputs["pixel_values"]
    batches = [np.resize(pixels, (batch, *pixels.shape[1:])) for batch in (1, 4, 2, 8, 3, 5)]
    with closing(_open(demo, "vision", SessionOptions(cuda_graph=False))) as session:
        alone = [session.run({"pixel_values": batch}) for batch in batches]
    with closing(_open(demo, "vision")) as session:
        for _ in range(4):
            for batch, expected in zip(batches, alone, strict=True):
                _require_equal(session.run({"pixel_values": batch}), expected)


@pytest.mark.parametrize("streams", [1, 2])
def test_threads_share_sessions(demo: Built, reference: InternVL, streams: int) -> None:
    cases = [case_of(reference, name) for name in ("vision", "text", "query")]
    sessions = [_open(demo, case.graph, SessionOptions(streams=streams)) for case in cases]
    alone = [session.run(case.inputs) for session, case in zip(sessions, cases, strict=True)]
    failures: list[BaseException] = []

    def work(place: int) -> None:
        try:
            for turn in range(_RUNS):
                index = (place + turn) % len(cases)
                _require_equal(sessions[index].run(cases[index].inputs), alone[index])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    assert failures == []


@pytest.mark.parametrize("beams", [1, 3])
def test_the_cache_on_the_device_writes_what_arrays_write(
    demo: Built, reference: InternVL, beams: int, record_property: Record
) -> None:
    query = case_of(reference, "query").expected
    present = {name: values for name, values in query.items() if name.startswith("present.")}
    held = next(iter(present.values())).shape[2]
    config = GenerationConfig(num_beams=beams, max_new_tokens=12, min_new_tokens=12)
    written = {}
    with closing(_open(demo, "decoder")) as session:
        rows, length = len(PROMPT_IDS) * beams, held + PROMPT_IDS.shape[1] + config.max_new_tokens
        caches: dict[str, Callable[[], KeyValueCache]] = {
            "device": lambda: session.open_cache(present, rows, length),
            "arrays": lambda: ArrayCache(lambda inputs, stages: session.run(inputs, stages=stages), present),
        }
        for name, open_cache in caches.items():
            stages = Stages()
            with closing(open_cache()) as cache:
                written[name] = generate(CaptionDecoder(cache, held, PROMPT_IDS, stages), config, stages).ids
            copied = [span for span in stages.spans if span.on_device and span.stage != COMPUTE]
            record_property(f"{name}_copies_ms", sum(span.end_ns - span.start_ns for span in copied) / 1e6)
    np.testing.assert_array_equal(written["device"], written["arrays"])


def test_the_cache_on_the_device_is_cut_and_grows(demo: Built, reference: InternVL) -> None:
    """A chat keeps what two prompts have in common, and needs more room for the longer one."""
    query = case_of(reference, "query").expected
    present = {name: values for name, values in query.items() if name.startswith("present.")}
    held, rows = next(iter(present.values())).shape[2], len(PROMPT_IDS)
    length = held + PROMPT_IDS.shape[1]
    with closing(_open(demo, "decoder")) as session:
        device = session.open_cache(present, rows, length + 2)
        arrays = ArrayCache(lambda inputs, stages: session.run(inputs, stages=stages), present)
        for cache in (device, arrays):
            decoder = CaptionDecoder(cache, held, PROMPT_IDS)
            *_, first = decoder.prefill()
            decoder.feed(first.argmax(axis=1))
            cache.truncate(length)
            cache.reserve(2 * rows, length + 9)
            cache.select(np.repeat(np.arange(rows), 2), length)
        tokens = np.repeat(first.argmax(axis=1), 2)[:, None]
        for step in range(3):
            mask = np.ones((2 * rows, length + step + 1), np.int64)
            inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": np.full_like(tokens, length + step)}
            found, expected = device.step(inputs), arrays.step(inputs)
            np.testing.assert_array_equal(found, expected)
            tokens = expected.argmax(axis=1)[:, None]
        device.close()


def test_memory_does_not_grow_and_comes_back(demo: Built, reference: InternVL, record_property: Record) -> None:
    case = case_of(reference, "vision")
    before = _free_bytes()
    session = _open(demo, "vision")
    for _ in range(_RUNS):
        session.run(case.inputs)
    held = _free_bytes()
    for _ in range(_CALLS):
        session.run(case.inputs)
    record_property("taken_bytes", before - held)
    record_property("grown_bytes", held - _free_bytes())
    assert held - _free_bytes() <= _KEPT_BYTES
    session.close()
    record_property("left_bytes", before - _free_bytes())


def test_graphs_share_activation_memory(demo: Built, reference: InternVL, record_property: Record) -> None:
    names = ("vision", "query", "text", "itm")
    sessions = [_open(demo, name) for name in names]
    for session, name in zip(sessions, names, strict=True):
        session.run(case_of(reference, name).inputs)
    sizes = [max(plan.scratch_bytes for plan in session._plans) for session in sessions]
    lanes = {id(session._lanes) for session in sessions}
    record_property("largest_bytes", max(sizes))
    record_property("sum_bytes", sum(sizes))
    for session in sessions:
        session.close()
    assert len(lanes) == 1


def test_stages_add_up(demo: Built, reference: InternVL, record_property: Record) -> None:
    case = case_of(reference, "vision")
    with closing(_open(demo, "vision")) as session:
        for _ in range(_RUNS):
            session.run(case.inputs)
        stages = _record_times(session, case, "", record_property)
    assert {span.stage for span in stages.spans if span.on_device} == {HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST}
    assert all(span.end_ns >= span.start_ns for span in stages.spans)


def test_layers_take_the_time_of_the_whole(demo: Built, reference: InternVL, record_property: Record) -> None:
    case = case_of(reference, "vision")
    with closing(_open(demo, "vision")) as session:
        layers = session.layer_times(case.inputs, runs=10)
        info = session.layer_info(case.inputs)
    record_property("layers", len(layers))
    record_property("layers_ms", sum(layer.median_ms for layer in layers))
    assert layers
    assert {len(layer.times_ms) for layer in layers} == {10}
    read = read_layers(info)
    record_property("unknown_formats", read.unknown)
    assert not read.problems
    assert read.edges
    assert "N/A due to dynamic shapes" not in read.unknown


def test_a_batch_beyond_the_plan_is_refused_before_the_device(demo: Built, reference: InternVL) -> None:
    pixels = case_of(reference, "vision").inputs["pixel_values"]
    with closing(_open(demo, "vision")) as session:
        with pytest.raises(InputError, match="is beyond its plan, which takes pixel_values"):
            session.run({"pixel_values": np.resize(pixels, (9, *pixels.shape[1:]))})
        session.run({"pixel_values": pixels})


def test_kernels_are_kept_for_the_next_process(
    rtx: object, demo: Built, reference: InternVL, record_property: Record
) -> None:
    case = case_of(reference, "vision")
    first_ms = []
    for _ in range(2):
        with closing(_open(demo, "vision")) as session:
            stages = Stages()
            session.run(case.inputs, stages=stages)
            first_ms.append(sum(span.end_ns - span.start_ns for span in stages.spans if span.stage == ENQUEUE) / 1e6)
    (file,) = cache_folder().iterdir()
    record_property("first_enqueue_ms", first_ms[0])
    record_property("first_enqueue_with_cache_ms", first_ms[1])
    record_property("kept_bytes", file.stat().st_size)
    assert file.stat().st_size > 0


def _record_times(session: TensorRTSession, case: Case, prefix: str, record: Record) -> Stages:
    """Record the median of each stage over `_RUNS` runs."""
    stages = Stages()
    for _ in range(_RUNS):
        session.run(case.inputs, stages=stages)
    for stage, on_device in ((HOST_TO_DEVICE, True), (ENQUEUE, False), (COMPUTE, True), (DEVICE_TO_HOST, True)):
        spans = [span for span in stages.spans if span.stage == stage and span.on_device == on_device]
        spent = float(np.median([span.end_ns - span.start_ns for span in spans])) / 1e6
        record(f"{prefix}{stage.replace(' ', '_')}_ms", spent)
    return stages


def _require_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Hold outputs of the same plan on the same inputs against each other, bit for bit."""
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def _free_bytes() -> int:
    """Return the device's free bytes, with those that torch holds counted as free."""
    import torch

    gc.collect()
    torch.cuda.synchronize()
    return int(torch.cuda.mem_get_info()[0]) + torch.cuda.memory_reserved()
