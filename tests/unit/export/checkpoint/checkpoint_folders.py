"""Small checkpoints of a tower alone, written in any layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from internvl_edge.export.blockwise.sources import stored_shapes
from internvl_edge.export.checkpoint import Checkpoint, open_checkpoint
from internvl_edge.export.checkpoint.required_tensors import require_tensors
from internvl_edge.runtime.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

CONFIG: dict[str, Any] = {
    "model_type": "intern_vit_6b",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "image_size": 28,
    "patch_size": 14,
    "norm_type": "layer_norm",
    "qkv_bias": True,
    "qk_normalization": False,
}
QKV = "encoder.layers.0.attn.qkv"
FC1 = "encoder.layers.1.mlp.fc1"


def tower(seed: int = 0, prefix: str = "") -> Tensors:
    """Return random weights of a tower under the names of a folder with a tower alone."""
    generator = torch.Generator().manual_seed(seed)
    width, hidden = 16, 24
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (1, 1, width),
        "embeddings.position_embedding": (1, 5, width),
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.patch_embedding.bias": (width,),
    }
    for layer in (f"encoder.layers.{index}" for index in range(2)):
        shapes |= {f"{layer}.{name}": (width,) for name in ("ls1", "ls2", "attn.proj.bias", "mlp.fc2.bias")}
        shapes |= {f"{layer}.{norm}.{leaf}": (width,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")}
        shapes |= {f"{layer}.attn.qkv.weight": (3 * width, width), f"{layer}.attn.qkv.bias": (3 * width,)}
        shapes |= {f"{layer}.attn.proj.weight": (width, width), f"{layer}.mlp.fc1.weight": (hidden, width)}
        shapes |= {f"{layer}.mlp.fc1.bias": (hidden,), f"{layer}.mlp.fc2.weight": (width, hidden)}
    return {prefix + name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def language_model(kind: torch.dtype = torch.float32) -> Tensors:
    """Return a few tensors of a language model."""
    return {
        "language_model.model.embed_tokens.weight": torch.ones(8, 12),
        "language_model.model.layers.0.self_attn.q_proj.weight": torch.ones(12, 12).to(kind),
        "language_model.model.layers.0.self_attn.q_proj.weight_scale": torch.ones(12, 1),
    }


def chat_weights() -> Tensors:
    """Return a tower with a connector, as in a chat checkpoint without its language model."""
    generator = torch.Generator().manual_seed(9)
    shapes = {
        "0.weight": (64,),
        "0.bias": (64,),
        "1.weight": (12, 64),
        "1.bias": (12,),
        "3.weight": (12, 12),
        "3.bias": (12,),
    }
    mlp = {f"mlp1.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return tower(prefix="vision_model.") | mlp


CHAT_CONFIG: dict[str, Any] = {
    "model_type": "internvl_chat",
    "vision_config": CONFIG,
    "llm_config": {"hidden_size": 12},
    "ps_version": "v2",
}


def write_config(folder: Path, config: Mapping[str, Any] = CONFIG) -> Path:
    """Write a `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_safetensors(folder: Path, weights: Mapping[str, torch.Tensor], name: str = "model.safetensors") -> Path:
    """Write a safetensors file."""
    save_file({name: value.clone().contiguous() for name, value in weights.items()}, folder / name)
    return folder


def write_shards(
    folder: Path,
    shards: Mapping[str, Tensors],
    weight_map: Mapping[str, str] | None = None,
    stem: str = "model.safetensors",
) -> Path:
    """Write shards and their index; by default every tensor is in the shard that holds it."""
    for name, tensors in shards.items():
        write_safetensors(folder, tensors, name)
    places = weight_map or {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def opened(source: Path, **options: Any) -> Checkpoint:
    """Return the checkpoint at `source`, held against the model that its config describes."""
    checkpoint = open_checkpoint(source, **options)
    require_tensors(checkpoint.tensors, stored_shapes(checkpoint.config))
    return checkpoint


def holds(checkpoint: Checkpoint, weights: Tensors) -> bool:
    """Return whether a checkpoint has exactly these weights."""
    official = {
        name if name.startswith(("vision_", "mlp1")) else f"vision_model.{name}": v for name, v in weights.items()
    }
    assert set(checkpoint.tensors) == set(official)
    return all(torch.equal(checkpoint.tensors[name].torch(), value) for name, value in official.items())


def assert_refused(source: Path, finding: str, **options: Any) -> str:
    """Check that opening fails in one line that holds `finding`; return the line."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source, **options)
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)
