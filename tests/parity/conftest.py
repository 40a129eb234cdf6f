"""The golden cases as torch models with their weights, and as exported bundles."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from internvl_edge.export.blockwise.sources import weight_sources
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.store.weight_sources import ComputedTensor
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.runtime import InternVL
from tests.exports import Exports

Loaded = tuple[ModelConfig, InternVLModel]


def load_model(folder: Path, image_size: int | None = None) -> Loaded:
    """Return the checkpoint as a torch model in fp32, its position table resized where asked."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    if image_size is not None:
        config = config.with_part(replace(config.vision, image_size=image_size))
    model = InternVLModel(config).eval()
    sources = weight_sources(checkpoint.tensors, config)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            source = sources[name]
            tensor.copy_(source.value if isinstance(source, ComputedTensor) else source.torch())
    return config, model


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
