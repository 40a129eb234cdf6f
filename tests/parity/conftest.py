"""The golden cases as torch models with their weights, and as exported bundles."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch_model import load_model

from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.runtime import InternVL
from tests.exports import Exports

Loaded = tuple[ModelConfig, InternVLModel]


@pytest.fixture(scope="session")
def model_a(golden_a: Path) -> Loaded:
    return load_model(golden_a / "checkpoint")


@pytest.fixture(scope="session")
def recorded_a(golden_a: Path) -> dict[str, torch.Tensor]:
    return load_file(golden_a / "golden.safetensors")


@pytest.fixture(scope="session")
def recorded_b(golden_b: Path) -> dict[str, torch.Tensor]:
    return load_file(golden_b / "golden.safetensors")


@pytest.fixture(scope="session")
def exported(exports: Exports) -> Callable[..., InternVL]:
    """Export a checkpoint and open the bundle, once per settings."""

    @cache
    def export(checkpoint: Path, **settings: object) -> InternVL:
        return InternVL.open(exports.bundle(checkpoint, **settings), "onnxruntime")

    return export
