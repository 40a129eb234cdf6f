"""What doctor predicts of a plan's device memory, what the plan says of it, and what the device gives away."""

import gc
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from internvl_edge.calib.data.synthetic import synthetic_pixels
from internvl_edge.export.plans.build import BuildOptions
from internvl_edge.runtime.inspect.doctor import diagnose
from internvl_edge.runtime.inspect.xray.xray_report import xray
from internvl_edge.runtime.targets.targets import find_target
from tests.gpu.agree import Record
from tests.gpu.built import Built
from tests.gpu.cases import case_of
from tests.gpu.marks import GPU
from tests.gpu.plans import LoadedPlan

pytestmark = GPU


@pytest.mark.parametrize("graph", ["vision", "query", "text", "itm", "decoder"])
def test_the_memory_of_a_small_plan_is_told(built: Callable[..., Built], graph: str, record_property: Record) -> None:
    """The demo's plans are near the 2 MiB that a device gives away at least: the library's own share shows here."""
    demo = built("fp16", BuildOptions())
    case = case_of(demo.model, "prompt" if graph == "decoder" else graph)
    _record_memory(demo, graph, case.inputs, record_property)


def test_the_memory_of_a_large_plan_is_told(large: Callable[[str], Built], record_property: Record) -> None:
    _record_memory(large("pattern"), "vision", {"pixel_values": synthetic_pixels(448, 8)}, record_property)


def _record_memory(model: Built, graph: str, inputs: Mapping[str, np.ndarray], record: Record) -> None:
    """Record predicted, declared and taken bytes of `graph`, loaded and run once; only nonsense fails.

    What a library takes once, with its first plan, is taken before: the same plan is loaded, run and dropped.
    """
    import torch

    (forecast,) = (found for found in diagnose(model.bundle, None).graphs if found.name == graph)
    record("predicted_plan_bytes", forecast.plan_bytes)
    record("predicted_activation_bytes", forecast.activation_bytes)
    plan = model.plan_file(graph)
    values = {name: torch.tensor(value, device="cuda") for name, value in inputs.items()}
    LoadedPlan(model.flavour, plan).run(values)
    before = _free_bytes()
    loaded = LoadedPlan(model.flavour, plan)
    loaded.run(values)
    taken = before - _free_bytes()
    declared = int(loaded.engine.device_memory_size_v2)
    record("declared_activation_bytes", declared)
    if model.flavour.name == "tensorrt_rtx":
        record("xray_activation_bytes", xray(plan, target=find_target(model.record.target)).activation_bytes)
    record("taken_bytes", taken)
    record("taken_to_predicted", taken / (forecast.plan_bytes + forecast.activation_bytes))
    assert declared >= 0


def _free_bytes() -> int:
    """Return the device's free bytes, with those that torch holds counted as free."""
    import torch

    gc.collect()
    torch.cuda.synchronize()
    return int(torch.cuda.mem_get_info()[0]) + torch.cuda.memory_reserved()
