"""The reference in torch: modules are built once, and no run leaves anything in them for the next."""

import zlib

import numpy as np
import pytest
import torch
from torch import Tensor

from internvl_edge.export.blockwise.torch_outputs import torch_outputs
from internvl_edge.export.models.config import ModelConfig, VisionConfig

TOWER = VisionConfig(hidden_size=32, intermediate_size=64, num_heads=2, num_layers=2, image_size=28, patch_size=14)
CONFIG = ModelConfig(layout="internvit", parts=(TOWER,))
CHANGED = "vision_model.encoder.layers.1.mlp.fc1"


def fetch(name: str, into: Tensor) -> None:
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(into.shape, np.float32)
    into.copy_(torch.from_numpy(values) / 8)


def refuse(name: str, into: Tensor) -> None:
    if name == f"{CHANGED}.weight":
        raise RuntimeError("no such weight")
    fetch(name, into)


@pytest.fixture
def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"pixel_values": rng.standard_normal((1, 3, 28, 28), np.float32)}


def test_a_change_ends_with_its_run(inputs: dict[str, np.ndarray]) -> None:
    plain = torch_outputs("vision", CONFIG, inputs, fetch)["vision_states"]
    changed = torch_outputs("vision", CONFIG, inputs, fetch, (), {CHANGED: torch.zeros_like})["vision_states"]
    again = torch_outputs("vision", CONFIG, inputs, fetch)["vision_states"]
    assert np.abs(changed - plain).max() > 1e-3
    np.testing.assert_array_equal(again, plain)


def test_an_error_ends_with_its_run(inputs: dict[str, np.ndarray]) -> None:
    plain = torch_outputs("vision", CONFIG, inputs, fetch)["vision_states"]
    with pytest.raises(RuntimeError, match="no such weight"):
        torch_outputs("vision", CONFIG, inputs, refuse)
    np.testing.assert_array_equal(torch_outputs("vision", CONFIG, inputs, fetch)["vision_states"], plain)


def test_weights_of_another_run_are_read_anew(inputs: dict[str, np.ndarray]) -> None:
    plain = torch_outputs("vision", CONFIG, inputs, fetch)["vision_states"]
    other = torch_outputs("vision", CONFIG, inputs, lambda name, into: into.fill_(0.01))["vision_states"]
    assert np.abs(other - plain).max() > 1e-3
