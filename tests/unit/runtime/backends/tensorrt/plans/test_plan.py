"""A plan that is loaded: what its tensors take, and what is said of one that TensorRT does not take."""

from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from internvl_edge.runtime.backends.tensorrt.plans.library import load_library
from internvl_edge.runtime.backends.tensorrt.plans.plan import Plan, load_plan
from internvl_edge.runtime.bundle.engines import EngineRecord, PlanRecord
from internvl_edge.runtime.errors import BackendError
from tests.unit.runtime.fake_plans import SCRATCH, BundleOnDevice, bundle_on_device


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleOnDevice:
    return bundle_on_device(tmp_path, monkeypatch)


def record(here: BundleOnDevice) -> PlanRecord:
    return EngineRecord.load(here.folder).graphs["vision"].plans[0]


def loaded(here: BundleOnDevice, plan: PlanRecord) -> Plan:
    with here.cuda.current():
        return load_plan(load_library(here.flavour), here.folder, plan, "vision")


def test_tensors_take_the_bytes_of_their_types(here: BundleOnDevice) -> None:
    plan = loaded(here, record(here))
    assert plan.item_bytes == {"pixel_values": 4, "vision_states": 2, "image_embeds": 4}
    assert plan.tensor_bytes("vision_states", (5, 2, 3)) == 60
    assert plan.tensor_bytes("image_embeds", (5, 0)) == 0
    assert plan.scratch_bytes == SCRATCH["whole"]


def test_a_plan_that_is_not_taken_names_the_first_reason_and_the_remedy(here: BundleOnDevice) -> None:
    here.trt.plans_fail = "Error Code 1: Serialization (magic tag does not match)"
    with pytest.raises(BackendError, match=r"^graph vision: tensorrt 10\.3\.0 does not load whole\.plan \(.*magic tag"):
        loaded(here, record(here))


def test_errors_of_before_are_no_reason(here: BundleOnDevice) -> None:
    library = load_library(here.flavour)
    library.errors.append("out of memory, long ago")
    loaded(here, record(here))
    assert library.errors == deque()


def test_plugins_are_registered_before_the_plan_is_read(here: BundleOnDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []
    plugin = "internvl_edge.runtime.backends.tensorrt.plans.attention_plugin.provide_plugins"
    monkeypatch.setattr(plugin, lambda trt, plugins, loader, file: order.append((plugins, file)))
    monkeypatch.setattr("internvl_edge.runtime.backends.cuda.kernels.KernelLoader", object)
    monkeypatch.setattr(
        "internvl_edge.runtime.backends.tensorrt.plans.plan.deserialize", lambda library, path: order.append("read")
    )
    plugins = (("attention", "1"),)
    with pytest.raises(BackendError, match="no reason given"):
        loaded(here, replace(record(here), plugins=plugins))
    assert order == [(plugins, "whole.plan"), "read"]
