"""From a bundle to a session: what is missing, foreign or damaged is one line with its remedy, before anything runs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.cuda.kernels import KernelLoader
from internvl_edge.runtime.backends.tensorrt.open import unavailable
from internvl_edge.runtime.backends.tensorrt.plans.library import load_library
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import ENGINE_FILE, EngineRecord
from internvl_edge.runtime.errors import BackendError, BundleError, EdgeError, InputError
from tests.unit.runtime.fake_plans import DEVICE, MODULES, VERSIONS, BundleOnDevice, bundle_on_device

OPEN = "internvl_edge.runtime.backends.tensorrt.open"
FLAVOURS = ["tensorrt", "tensorrt_rtx"]


@pytest.fixture(params=FLAVOURS)
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleOnDevice:
    return bundle_on_device(tmp_path, monkeypatch, request.param)


def refusal(here: BundleOnDevice, graph: str = "vision", **options: object) -> str:
    with pytest.raises(EdgeError) as caught:
        here.open(graph, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change(here: BundleOnDevice, **fields: object) -> None:
    replace(EngineRecord.load(here.folder), **fields).save(here.folder)  # type: ignore[arg-type]


def test_what_can_run_has_no_reason_against_it(here: BundleOnDevice) -> None:
    assert unavailable(here.bundle, here.flavour, SessionOptions()) is None
    assert here.open().backend == here.flavour
    assert here.open(target="l4").backend == here.flavour


def test_no_device_names_another_backend(here: BundleOnDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{OPEN}.find_device", lambda: "no CUDA device: the driver finds none")
    message = f"backend {here.flavour}: no CUDA device: the driver finds none; plans run on an NVIDIA GPU, choose "
    assert refusal(here).startswith(message)
    assert unavailable(here.bundle, here.flavour, SessionOptions()) == refusal(here)


@pytest.mark.parametrize(("flavour", "extra"), [("tensorrt", "gpu"), ("tensorrt_rtx", "rtx")])
def test_a_missing_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flavour: str, extra: str
) -> None:
    here = bundle_on_device(tmp_path, monkeypatch, flavour)
    monkeypatch.setitem(sys.modules, MODULES[flavour][0], None)
    load_library.cache_clear()
    message = refusal(here)
    assert message.startswith(f"backend {flavour}: not installed (")
    assert f"pip install 'internvl-edge[{extra}]'" in message
    assert unavailable(here.bundle, flavour, SessionOptions()) == message


def test_a_driver_that_does_not_start_is_the_reason(here: BundleOnDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise BackendError("cuInit: CUDA_ERROR_UNKNOWN; see the kernel's log")

    monkeypatch.setattr(f"{OPEN}.open_cuda", absent)
    assert (
        unavailable(here.bundle, here.flavour, SessionOptions()) == "cuInit: CUDA_ERROR_UNKNOWN; see the kernel's log"
    )


def test_plans_of_another_device_are_reported(here: BundleOnDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{OPEN}.find_device", lambda: replace(DEVICE, sm=120, name="NVIDIA Newer"))
    message = refusal(here)
    assert f"has no plans by {here.flavour} for sm_120 (NVIDIA Newer) (it has l4 by {here.flavour})" in message
    assert "--target sm_120" in message
    asked = refusal(here, target="l4")  # the user insists
    assert "built for sm_89, this device is sm_120" in asked


def test_no_plans_at_all_are_reported(here: BundleOnDevice) -> None:
    (here.folder / ENGINE_FILE).unlink()
    assert "(it has none at all)" in refusal(here)
    assert "for orin (it has" in refusal(here, target="orin")


def test_plans_of_the_other_flavour_are_none(here: BundleOnDevice) -> None:
    other = next(flavour for flavour in FLAVOURS if flavour != here.flavour)
    change(here, flavour=other)
    assert f"has no plans by {here.flavour} for sm_89 (NVIDIA Fake) (it has l4 by {other})" in refusal(here)


def test_plans_of_another_version_are_refused(here: BundleOnDevice) -> None:
    change(here, version="9.9")
    assert f"built by {here.flavour} 9.9, here is {VERSIONS[here.flavour]}" in refusal(here)


def test_a_damaged_plan_is_refused_before_tensorrt_sees_it(here: BundleOnDevice) -> None:
    path = here.folder / "whole.plan"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert "whole.plan is not as it was built" in refusal(here)


def test_records_of_other_targets_may_be_broken(here: BundleOnDevice) -> None:
    (here.folder.parent / "broken").mkdir()
    (here.folder.parent / "broken" / ENGINE_FILE).write_text(json.dumps({"schema": 99}))
    assert here.open().backend == here.flavour


def test_a_graph_without_plans_names_the_build(here: BundleOnDevice) -> None:
    graphs = dict(EngineRecord.load(here.folder).graphs)
    del graphs["text"]
    change(here, graphs=graphs)
    assert "has no plan of graph text (it has vision, decoder); run `internvl-edge build" in refusal(here, "text")


def test_a_graph_that_the_bundle_lacks_is_the_bundles_finding(here: BundleOnDevice) -> None:
    with pytest.raises(BundleError, match="has no graph itm"):
        here.open("itm")


def test_no_stream_is_no_way_to_run(here: BundleOnDevice) -> None:
    with pytest.raises(InputError, match="streams: 0; give 1 or more"):
        here.open(streams=0)


def test_a_plan_that_tensorrt_refuses_is_one_line(here: BundleOnDevice) -> None:
    here.trt.plans_fail = (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (header.magicTag failed.\n"
        "In throwUnlessHeaderOk at /_src/runtime/dispatch/runtime.cpp:48)"
    )
    message = refusal(here)
    assert message.startswith(
        f"graph vision: {here.flavour} {VERSIONS[here.flavour]} does not load whole.plan (IRuntime"
    )
    assert "runtime.cpp" not in message
    assert message.endswith("; build the plans again on this machine")


def test_a_plan_for_which_there_is_no_room_says_so(here: BundleOnDevice) -> None:
    here.trt.plans_fail = "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
    assert refusal(here).startswith("graph vision: the device is out of memory; lower the batch")


def test_type_that_numpy_lacks_names_the_export(here: BundleOnDevice) -> None:
    graph = here.bundle.manifest.graphs["text"]
    wide = replace(graph, outputs=(replace(graph.outputs[0], dtype="bfloat16"),))
    manifest = replace(here.bundle.manifest, graphs={**here.bundle.manifest.graphs, "text": wide})
    foreign = replace(here, bundle=Bundle(here.bundle.path, manifest))
    assert "NumPy cannot hold text_embeds of type bfloat16; export with --dtype fp16 or fp32" in refusal(
        foreign, "text"
    )


def test_files_are_digested_once_for_all_graphs(here: BundleOnDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    here.open("vision")
    monkeypatch.setattr("internvl_edge.runtime.bundle.engines.sha256_file", lambda path: pytest.fail("read again"))
    here.open("text")


def test_attention_kernels_are_provided_before_their_plan_is_loaded(
    here: BundleOnDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = EngineRecord.load(here.folder)
    (plan,) = record.graphs["vision"].plans
    vision = replace(record.graphs["vision"], plans=(replace(plan, plugins=(("vit_attention", "3"),)),))
    change(here, graphs={**record.graphs, "vision": vision})
    provided: list[object] = []

    def provide(trt: object, wanted: object, driver: object, what: object) -> None:
        assert here.trt.contexts == [], "the plan runs already"
        provided.extend([trt, wanted, type(driver), what])

    monkeypatch.setattr("internvl_edge.runtime.backends.tensorrt.plans.attention_plugin.provide_plugins", provide)
    here.open("text")
    assert provided == []
    here.open("vision")
    assert provided == [here.trt.module, (("vit_attention", "3"),), KernelLoader, "whole.plan"]
