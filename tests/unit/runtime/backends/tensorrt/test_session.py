"""Plans behind the protocol, on a fake that enforces the order of calls: outputs are checked through the whole path."""

import threading
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends.layer_times.layers import LayerInfo, LayerTimes
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.stages import COMPUTE, DEVICE_TO_HOST, ENQUEUE, HOST_TO_DEVICE, Stages
from tests.layer_reader import read_layers
from tests.unit.runtime.fake_cuda import STEP_MS
from tests.unit.runtime.fake_plans import FUNCTIONS, SCRATCH, VERSIONS, BundleOnDevice, bundle_on_device

FLAVOURS = ["tensorrt", "tensorrt_rtx"]


@pytest.fixture(params=FLAVOURS)
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleOnDevice:
    return bundle_on_device(tmp_path, monkeypatch, request.param)


@pytest.fixture
def in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleOnDevice:
    return bundle_on_device(tmp_path, monkeypatch, parts=True)


def pixels(rng: np.random.Generator, batch: int) -> np.ndarray:
    return rng.integers(-9, 9, (batch, 3, 4)).astype(np.float32)


def require_vision(found: dict[str, np.ndarray], pixel_values: np.ndarray) -> None:
    expected = FUNCTIONS["whole"](pixel_values=pixel_values)
    assert list(found) == ["vision_states", "image_embeds"]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert found["vision_states"].dtype == np.float16


def test_outputs_come_through_pinned_memory_and_streams(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session = here.open()
    for batch in (2, 1, 8, 2, 2, 2, 8):
        values = pixels(rng, batch)
        require_vision(session.run({"pixel_values": values}), values)


def test_only_the_named_outputs_come_back_and_stay_the_callers(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session = here.open()
    first = session.run({"pixel_values": pixels(rng, 2)}, ["image_embeds"])
    kept = first["image_embeds"].copy()
    session.run({"pixel_values": pixels(rng, 2)})
    assert list(first) == ["image_embeds"]
    np.testing.assert_array_equal(first["image_embeds"], kept)


def test_inputs_are_cast_to_the_graphs_width_and_may_be_strided(here: BundleOnDevice) -> None:
    values = np.arange(24.0).reshape(1, 4, 6)[:, :, ::2].transpose(0, 2, 1)
    require_vision(here.open().run({"pixel_values": values}), values)


def test_segments_pass_what_is_between_them_on_the_device(in_parts: BundleOnDevice, rng: np.random.Generator) -> None:
    session = in_parts.open()
    for batch in (1, 4, 1, 1, 4, 4):
        values = pixels(rng, batch)
        require_vision(session.run({"pixel_values": values}), values)
    assert "hidden" not in {*session.inputs, *session.outputs}
    assert session.settings["plans"] == "2"


def test_a_shape_is_replayed_from_its_third_run_on(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session = here.open()
    launched = []
    for batch in (3, 3, 3, 2, 3, 2, 2):
        values = pixels(rng, batch)
        require_vision(session.run({"pixel_values": values}), values)
        launched.append(here.cuda.launched)
    assert launched == [0, 0, 1, 1, 2, 2, 3]
    assert session.settings["CUDA graph"] == "on"


def test_replays_survive_buffers_that_grow(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session = here.open()
    for batch in (1, 1, 1, 8, 1, 1, 1):  # the batch of 8 moves the buffers that the first graph holds
        values = pixels(rng, batch)
        require_vision(session.run({"pixel_values": values}), values)


def test_few_shapes_are_kept(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session = here.open()
    for _ in range(3):
        for batch in range(1, 9):
            values = pixels(rng, batch)
            require_vision(session.run({"pixel_values": values}), values)
    assert len(here.trt.contexts) == 4
    assert len(here.cuda.graphs) <= 4


def test_without_cuda_graphs_everything_is_enqueued(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session = here.open(cuda_graph=False)
    for _ in range(4):
        values = pixels(rng, 2)
        require_vision(session.run({"pixel_values": values}), values)
    assert here.cuda.launched == 0
    assert session.settings["CUDA graph"] == "off"


@pytest.mark.parametrize("reason", ["context", "driver"])
def test_a_capture_that_fails_is_reported_once(
    here: BundleOnDevice, reason: str, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    here.trt.capturable, here.cuda.captures_fail = reason != "context", reason == "driver"
    session = here.open()
    for _ in range(5):
        values = pixels(rng, 2)
        require_vision(session.run({"pixel_values": values}), values)
    reported = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(reported) == 1
    assert reported[0].startswith("graph vision: runs without CUDA graphs, capturing one failed (")
    assert session.settings["CUDA graph"] == "off"


def test_graphs_share_the_activation_memory_of_the_largest(in_parts: BundleOnDevice, rng: np.random.Generator) -> None:
    sessions = {graph: in_parts.open(graph) for graph in ("vision", "text")}
    sessions["vision"].run({"pixel_values": pixels(rng, 1)})
    sessions["text"].run({"input_ids": np.ones((1, 2), np.int64)})
    sizes = sorted((len(block) for block in in_parts.cuda.memory.values()), reverse=True)
    assert sizes[0] == max(SCRATCH["first_half"], SCRATCH["second_half"])
    assert sizes[1] < SCRATCH["text"]  # what else there is are inputs and outputs


def test_activation_memory_that_grows_is_bound_in_older_graphs(
    in_parts: BundleOnDevice, rng: np.random.Generator
) -> None:
    text, ids = in_parts.open("text"), {"input_ids": np.array([[1, 2, 3]])}
    for _ in range(3):
        text.run(ids)
    in_parts.open("vision").run({"pixel_values": pixels(rng, 1)})
    for _ in range(3):
        np.testing.assert_array_equal(text.run(ids)["text_embeds"], [[6, 6, 6]])


def test_closing_frees_everything_once(here: BundleOnDevice, rng: np.random.Generator) -> None:
    sessions = [here.open("vision"), here.open("text")]
    for _ in range(3):
        sessions[0].run({"pixel_values": pixels(rng, 1)})
    for session in sessions:
        session.close()
        session.close()
    assert here.cuda.held == 0
    assert here.cuda.pinned == []
    assert here.cuda.graphs == []
    with pytest.raises(BackendError, match="graph vision: is closed; open it again"):
        sessions[0].run({"pixel_values": pixels(rng, 1)})


def test_memory_does_not_grow_with_calls(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session = here.open()
    for batch in (1, 3, 8, 1, 3, 8):
        session.run({"pixel_values": pixels(rng, batch)})
    held, pinned, contexts = here.cuda.held, len(here.cuda.pinned), len(here.trt.contexts)
    for _ in range(200):
        session.run({"pixel_values": pixels(rng, int(rng.choice([1, 3, 8])))})
    assert (here.cuda.held, len(here.cuda.pinned), len(here.trt.contexts)) == (held, pinned, contexts)


@pytest.mark.parametrize("streams", [1, 2])
def test_threads_share_a_session(here: BundleOnDevice, streams: int) -> None:
    session = here.open(streams=streams)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(30):
                values = pixels(rng, int(rng.integers(1, 4)))
                require_vision(session.run({"pixel_values": values}), values)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(here.cuda.streams) == streams
    assert session.settings["streams"] == str(streams)


def test_stages_are_on_the_devices_clock(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session, stages = here.open(), Stages()
    session.run({"pixel_values": pixels(rng, 1)}, ["image_embeds"], stages)
    on_device = {span.stage: span for span in stages.spans if span.on_device}
    on_host = {span.stage for span in stages.spans if not span.on_device}
    assert set(on_device) == {HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST}
    assert on_host == {HOST_TO_DEVICE, ENQUEUE, DEVICE_TO_HOST}
    for span in on_device.values():
        assert span.end_ns - span.start_ns == pytest.approx(2 * STEP_MS * 1e6)  # one piece of work, and the mark


@pytest.mark.parametrize(("spin", "wait"), [(True, "polling"), (False, "blocking")])
def test_settings_say_what_changes_a_time(here: BundleOnDevice, spin: bool, wait: str) -> None:
    session = here.open(spin=spin)
    assert session.settings == {
        here.flavour: VERSIONS[here.flavour],
        "device": "NVIDIA Fake, sm_89",
        "plans": "1",
        "CUDA graph": "on",
        "wait": wait,
        "streams": "1",
    }
    session.settings = {**session.settings, "chosen": "the only one"}
    assert session.settings["chosen"] == "the only one"


def test_a_shape_beyond_the_plan_names_its_range(here: BundleOnDevice, rng: np.random.Generator) -> None:
    with pytest.raises(
        InputError,
        match=r"^graph vision: pixel_values \[9, 3, 4\] is beyond its plan, which takes pixel_values \[1, 3, 4\] to "
        r"\[8, 3, 4\]; give fewer rows",
    ):
        here.open().run({"pixel_values": pixels(rng, 9)})


def test_wrong_arrays_are_the_same_findings_as_of_every_backend(here: BundleOnDevice) -> None:
    with pytest.raises(InputError, match=r"input pixel_values is missing; no input x; no output y"):
        here.open().run({"x": np.ones(1)}, ["y"])


def test_a_run_that_fails_is_one_line_and_the_next_one_works(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session, values = here.open(), pixels(rng, 1)
    here.trt.runs_fail = True
    with pytest.raises(BackendError) as caught:
        session.run({"pixel_values": values})
    assert str(caught.value).startswith(
        f"graph vision: {here.flavour} {VERSIONS[here.flavour]} does not run whole.plan"
    )
    assert "illegal memory access" in str(caught.value)
    assert "\n" not in str(caught.value)
    here.trt.runs_fail = False
    for _ in range(3):
        require_vision(session.run({"pixel_values": values}), values)


def test_a_device_without_room_names_graph_and_remedy(here: BundleOnDevice, rng: np.random.Generator) -> None:
    session = here.open()
    require_vision(session.run({"pixel_values": (values := pixels(rng, 1))}), values)
    here.cuda.capacity = here.cuda.held + 64
    with pytest.raises(
        BackendError, match=r"^graph vision: the device is out of memory; lower the batch, the beams or"
    ):
        session.run({"pixel_values": pixels(rng, 8)})
    require_vision(session.run({"pixel_values": values}), values)


def test_layers_have_name_kind_and_time(in_parts: BundleOnDevice, rng: np.random.Generator) -> None:
    session = in_parts.open()
    assert isinstance(session, LayerTimes)
    assert isinstance(session, LayerInfo)
    layers = session.layer_times({"pixel_values": pixels(rng, 2)}, runs=3)
    assert [(layer.name, layer.op, layer.times_ms) for layer in layers] == [
        ("vision.encoder.first_half/mlp", "gemm", (0.25,) * 3),
        ("vision.encoder.second_half/mlp", "gemm", (0.25,) * 3),
    ]
    info = session.layer_info({"pixel_values": pixels(rng, 2)})
    assert [layer["Name"] for layer in info["Layers"]] == [layer.name for layer in layers]
    first, second = info["Layers"]
    (written,) = first["Outputs"]
    assert written in second["Inputs"], "an edge from layer to layer, of one shape"
    assert written["Dimensions"][0] == 2
    found = read_layers(info)
    assert (found.unknown, found.problems, found.unwritten, found.unread) == ([], [], [], [])
    assert found.edges == [(layers[0].name, layers[1].name)]
    assert info["Bindings"] == ["pixel_values", "hidden", "vision_states", "image_embeds"]


@pytest.mark.parametrize(("length", "past"), [(3, 4), (1, 7)])
def test_layers_are_those_of_the_profile_that_runs(here: BundleOnDevice, length: int, past: int) -> None:
    """Prompt and step of a decoder are two profiles; readers know the names of the first alone."""
    inputs = {
        "input_ids": np.ones((2, length), np.int64),
        "attention_mask": np.ones((2, past + length), np.int64),
        "position_ids": np.ones((2, length), np.int64),
        "past_key_values.0.key": np.ones((2, 2, past, 3), np.float16),
    }
    session = here.open("decoder")
    (layer,) = session.layer_times(inputs, runs=2)
    info = session.layer_info(inputs)
    found = read_layers(info)
    assert (found.unknown, found.problems, found.unwritten, found.unread) == ([], [], [], [])
    assert ([each["Name"] for each in info["Layers"]], layer.op) == ([layer.name], "gemm")
    assert info["Layers"][0]["Inputs"][0]["Dimensions"] == [2, length]


def test_plans_without_details_are_reported(
    here: BundleOnDevice, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    session = here.open()
    for plan in session._plans:
        plan.engine.plan = {**plan.engine.plan, "detailed": False}
    info = session.layer_info({"pixel_values": pixels(rng, 1)})
    assert all(isinstance(layer, str) for layer in info["Layers"])
    assert "its plans hold only the names of some layers; build them again" in caplog.text
