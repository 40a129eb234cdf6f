"""What ranges were measured on: a checkpoint that computes something else has another identity."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.fingerprint import fingerprint
from internvl_edge.export.models.resolution import at_image_size
from tests.unit.export.checkpoint.checkpoint_folders import CONFIG, QKV, tower, write_config, write_safetensors

ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tower with an adapter beside it."""
    folder = write_safetensors(write_config(tmp_path), tower())
    halves = {f"{QKV}.lora_A.weight": torch.ones(2, 16), f"{QKV}.lora_B.weight": torch.ones(48, 2)}
    write_safetensors(folder, halves, "adapter_model.safetensors")
    return _with_adapter(folder)


def _with_adapter(folder: Path, **fields: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({**ADAPTER, **fields}))
    return folder


def _identity(folder: Path, image_size: int | None = None) -> str:
    checkpoint = open_checkpoint(folder)
    return fingerprint(list(checkpoint.tensors.values()), at_image_size(checkpoint.config, image_size))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "a weight": lambda folder: write_safetensors(folder, tower(seed=1)),
    "an adapter's strength": lambda folder: _with_adapter(folder, lora_alpha=8),
    "a norm's eps": lambda folder: write_config(folder, {**CONFIG, "layer_norm_eps": 1e-5}),
    "the number of heads": lambda folder: write_config(folder, {**CONFIG, "num_attention_heads": 4}),
    "the pictures' mean": lambda folder: (folder / "preprocessor_config.json").write_text('{"image_mean": 0.5}'),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_values_changes_the_identity(folder: Path, name: str) -> None:
    before = _identity(folder)
    CHANGES[name](folder)
    assert _identity(folder) != before


def test_what_changes_none_leaves_the_identity(folder: Path) -> None:
    before = _identity(folder)
    _with_adapter(folder, lora_dropout=0.1)
    write_config(folder, {**CONFIG, "drop_path_rate": 0.1})
    assert _identity(folder) == before


def test_the_picture_size_is_compared_apart(folder: Path) -> None:
    assert _identity(folder, 56) == _identity(folder)
