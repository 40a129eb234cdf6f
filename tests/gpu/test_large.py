"""A model whose time is arithmetic and bytes, not launches: InternViT-300M, with attention in either form."""

from collections.abc import Callable

import numpy as np
import pytest

from internvl_edge.calib.data.synthetic import synthetic_pixels
from internvl_edge.runtime.backends.cuda import Device
from tests.gpu.agree import Record, require_agreement
from tests.gpu.built import Built
from tests.gpu.device_targets import device_target
from tests.gpu.marks import GPU
from tests.gpu.predictions import LEAST_RATIO, record_prediction

pytestmark = GPU

_BATCHES = (1, 8)
"""Pictures of 448 px, 1,025 tokens each; 8 is the largest batch that a build allows by default."""


@pytest.mark.parametrize("batch", _BATCHES)
@pytest.mark.parametrize("attention", ["pattern", "op"])
def test_a_form_of_attention_is_timed(
    device: Device, large: Callable[[str], Built], attention: str, batch: int, record_property: Record
) -> None:
    """Measure both forms of attention, since fewer launches need not be faster. Random weights take no other time."""
    model = large(attention)
    inputs = {"pixel_values": _pictures(batch)}
    record_property("launched_one_by_one_ms", model.load("vision").run(inputs).median_ms)
    if model.flavour.name != "tensorrt_rtx":
        return  # its plans do not show their launches, and it has no CUDA graphs of its own
    measured_ms = model.load("vision", cuda_graph=True).run(inputs).median_ms
    sizes = {"pixel_values": inputs["pixel_values"].shape}
    ratio = record_prediction(model.plan_file("vision"), device_target(device), sizes, 0, measured_ms, record_property)
    assert ratio is None or ratio > LEAST_RATIO


@pytest.mark.parametrize("attention", ["pattern", "op"])
def test_a_form_of_attention_agrees_with_onnx_runtime(
    large: Callable[[str], Built], attention: str, record_property: Record
) -> None:
    """One picture alone: a CPU takes seconds for it in fp16."""
    model = large(attention)
    inputs = {"pixel_values": _pictures(1)}
    found = model.load("vision").run(inputs)
    require_agreement(found.values, model.model.run_graph("vision", inputs), "fp16", record_property)


def _pictures(batch: int) -> np.ndarray:
    """Return pixels ``[B, 3, 448, 448]``."""
    return synthetic_pixels(448, batch)
