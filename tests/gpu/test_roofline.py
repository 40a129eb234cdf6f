"""Predicted against measured: the X-ray's roofline of a plan, and what the device takes for it."""

from collections.abc import Callable

import pytest

from internvl_edge.export.plans.build import BuildOptions
from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.targets.flavour import Flavour
from tests.gpu.agree import Record
from tests.gpu.built import Built
from tests.gpu.cases import CASES, case_of
from tests.gpu.device_targets import device_target
from tests.gpu.marks import GPU
from tests.gpu.predictions import LEAST_RATIO, record_prediction

pytestmark = GPU


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_no_plan_is_faster_than_its_roofline(
    device: Device,
    rtx: Flavour,
    built: Callable[..., Built],
    precision: str,
    name: str,
    record_property: Record,
) -> None:
    """The demo is small: what its plans take is launches, and the ratio says how many times over.

    Launched as one CUDA graph, so that the host's share falls away; `measured_ms` is that time. A ratio below
    `LEAST_RATIO` would mean that bytes or FLOPs are counted that no kernel moves or computes.
    """
    demo = built(precision, BuildOptions())
    case = case_of(demo.model, name)
    launched_ms = demo.load(case.graph).run(case.inputs, case.profile).median_ms
    record_property("launched_one_by_one_ms", launched_ms)
    measured_ms = demo.load(case.graph, cuda_graph=True).run(case.inputs, case.profile).median_ms
    sizes = {tensor: value.shape for tensor, value in case.inputs.items()}
    ratio = record_prediction(
        demo.plan_file(case.graph), device_target(device), sizes, case.profile, measured_ms, record_property
    )
    assert ratio is None or ratio > LEAST_RATIO
