"""What the tensors' names and shapes tell of the model: corrections of a config, or all of it where there is none."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from internvl_edge.export.checkpoint.fields import listed
from internvl_edge.export.checkpoint.files.tensors import LazyTensor, MergedTensor
from internvl_edge.export.config import ALL_QLLAMA_GRAPHS, ModelConfig, QllamaConfig, VisionConfig
from internvl_edge.runtime.errors import CheckpointError

StoredTensor = LazyTensor | MergedTensor

_POSITIONS = "vision_model.embeddings.position_embedding"
_HEAD, _EMBEDDING = "qllama.lm_head.weight", "qllama.model.embed_tokens.weight"
_POOLED = "clip_projector.cross_attn.proj.weight"
_QUERIES = "query_tokens"
_CROSS_LAYER = re.compile(r"^qllama\.model\.layers\.(\d+)\.cross_attn\.")
_FREQUENCIES = re.compile(r"^qllama\..*rotary_emb\.inv_freq$")

_VISION_HEADS = {
    (3200, 12800, "rms_norm", True, False): 25,
    (1024, 4096, "layer_norm", False, True): 16,
}
"""Width, width of the MLP, norm, q/k norm, qkv bias -> heads, of the two released families (MODEL.md 5)."""
_QLLAMA_HEADS = {(4096, 11008, 49954): 32}
"""Width, width of the MLP, vocabulary -> heads, of the released QLLaMA."""
_POOL_HEADS = {(3200, 768): 16}
"""Width, width of the embedding -> heads, of the released attention pool."""


def as_plain_file(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return `config` cut to the parts of a plain-PyTorch file: the tower, maybe its pool, maybe the text encoder.

    Raises:
        CheckpointError: neither config nor shapes tell the number of heads of the attention pool.
    """
    qllama = config.qllama if _EMBEDDING in tensors else None
    pooled = _POOLED in tensors
    unclear: list[str] = []
    heads = config.pool_heads or _pool_heads(tensors, unclear)
    if pooled and unclear:
        raise CheckpointError(
            f"config.json: does not tell the number of heads of {unclear[0]}; add model_type internvl and "
            "attn_pool_num_heads"
        )
    return replace(
        config,
        family="internvl" if qllama else "internvit",
        qllama=qllama,
        embed_dim=tensors[_POOLED].shape[0] if pooled else None,
        pool_heads=heads if pooled else None,
        connector=None,
        qllama_graphs=("text",),
    )


def as_stored(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return `config` corrected by what the tensors say: the position table's rows, the layers with cross-attention."""
    table = tensors.get(_POSITIONS)
    vision = config.vision
    if table is not None and len(table.shape) == 3 and (side := _square_side(table.shape[1] - 1)):
        vision = replace(vision, image_size=side * vision.patch_size)
    qllama = config.qllama
    if qllama is not None:
        qllama = replace(qllama, cross_attention_layers=_cross_layers(config, qllama, tensors))
    return replace(config, vision=vision, qllama=qllama)


def with_tied_head(tensors: dict[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """Return `tensors` with the embedding table as head where none is stored: the file was saved tied (MODEL.md T1).

    Raises:
        CheckpointError: the table has an adapter, of which nothing tells whether the head was trained with it.
    """
    tied = config.qllama is not None and "decoder" in config.qllama_graphs
    if not tied or _HEAD in tensors or (table := tensors.get(_EMBEDDING)) is None:
        return tensors
    if isinstance(table, MergedTensor):
        raise CheckpointError(
            f"LoRA adapters: {_EMBEDDING} has one and is the head too, as no {_HEAD} is stored: with or without it is "
            "unclear; merge it with PEFT"
        )
    return tensors | {_HEAD: replace(table, name=_HEAD)}


def config_from_shapes(
    tensors: Mapping[str, StoredTensor], unused: Mapping[str, LazyTensor], source: Path
) -> ModelConfig:
    """Return the config of weights without one; what shapes do not tell is that of the released models (MODEL.md 1.1).

    `unused` are tensors that no graph needs, by official name: among them may be the rotary frequencies.

    Raises:
        CheckpointError: the names are not those of InternViT or InternVL-C, or shapes leave the number of heads open.
    """
    unclear: list[str] = []
    try:
        vision = _vision(tensors, unclear)
        qllama = _qllama(tensors, unused, vision, unclear) if _EMBEDDING in tensors else None
        pool_heads = _pool_heads(tensors, unclear)
        config = ModelConfig(
            family="internvl" if qllama else "internvit",
            vision=vision,
            qllama=qllama,
            embed_dim=tensors[_POOLED].shape[0] if _POOLED in tensors else None,
            pool_heads=pool_heads,
            qllama_graphs=ALL_QLLAMA_GRAPHS if _QUERIES in tensors else ("text",),
        )
    except KeyError as error:
        finding = f"no config.json beside it and no tensor {error}"
        raise CheckpointError(f"{source}: {finding}; give the folder of the checkpoint") from error
    except (CheckpointError, ValueError, IndexError) as error:
        finding = f"no config.json beside it, and the shapes are not those of a released model ({error})"
        raise CheckpointError(f"{source}: {finding}; put the config.json beside it") from error
    if unclear:
        raise CheckpointError(
            f"{source}: no config.json beside it, and shapes do not tell the number of heads of {listed(unclear)}; "
            "put the config.json beside it"
        )
    return config


def _vision(tensors: Mapping[str, StoredTensor], unclear: list[str]) -> VisionConfig:
    width, _, patch, _ = tensors["vision_model.embeddings.patch_embedding.weight"].shape
    first = "vision_model.encoder.layers.0"
    norm = "layer_norm" if f"{first}.norm1.bias" in tensors else "rms_norm"
    hidden = tensors[f"{first}.mlp.fc1.weight"].shape[0]
    qkv_bias, qk_norm = f"{first}.attn.qkv.bias" in tensors, f"{first}.attn.q_norm.weight" in tensors
    heads = _VISION_HEADS.get((width, hidden, norm, qk_norm, qkv_bias))
    if heads is None:
        unclear.append(f"a tower of width {width}")
    return VisionConfig(
        hidden_size=width,
        num_heads=heads or 1,
        num_layers=_count(tensors, "vision_model.encoder.layers."),
        intermediate_size=hidden,
        patch_size=patch,
        image_size=_square_side(tensors[_POSITIONS].shape[1] - 1) * patch,
        norm_type=norm,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
    )


def _qllama(
    tensors: Mapping[str, StoredTensor], unused: Mapping[str, LazyTensor], vision: VisionConfig, unclear: list[str]
) -> QllamaConfig:
    vocab, width = tensors[_EMBEDDING].shape
    hidden = tensors["qllama.model.layers.0.mlp.gate_proj.weight"].shape[0]
    heads = _heads_of_frequencies(unused, width) or _QLLAMA_HEADS.get((width, hidden, vocab))
    if heads is None:
        unclear.append(f"a QLLaMA of width {width}")
    config = QllamaConfig(
        hidden_size=width,
        num_heads=heads or 1,
        num_layers=_count(tensors, "qllama.model.layers."),
        intermediate_size=hidden,
        vocab_size=vocab,
        vision_hidden_size=vision.hidden_size,
    )
    return replace(config, num_queries=tensors[_QUERIES].shape[1]) if _QUERIES in tensors else config


def _heads_of_frequencies(unused: Mapping[str, LazyTensor], width: int) -> int | None:
    """Return the number of heads that rotary frequencies, one for two channels of a head, tell; None without any."""
    for name, tensor in unused.items():
        if _FREQUENCIES.match(name) and len(tensor.shape) == 1 and tensor.shape[0] and not width % tensor.shape[0]:
            return width // (2 * tensor.shape[0]) or None
    return None


def _pool_heads(tensors: Mapping[str, StoredTensor], unclear: list[str]) -> int | None:
    if _POOLED not in tensors:
        return None
    embed, width = tensors[_POOLED].shape
    heads = _POOL_HEADS.get((width, embed))
    if heads is None:
        unclear.append(f"an attention pool from {width} to {embed}")
    return heads or 1


def _square_side(count: int) -> int:
    """Return the root of a square number, 0 for every other."""
    side = math.isqrt(max(count, 0))
    return side if side * side == count else 0


def _cross_layers(config: ModelConfig, qllama: QllamaConfig, names: Iterable[str]) -> tuple[int, ...]:
    """Return every f-th layer, f being the smallest step between stored ones, so that a lost layer counts as missing.

    The config's word stands only where no layer is stored: what it says of f is unreliable (MODEL.md T2).
    """
    found = {int(match[1]) for name in names if (match := _CROSS_LAYER.match(name))}
    stored = sorted(layer for layer in found if layer < qllama.num_layers)
    if not stored:
        return qllama.cross_attention_layers if "query" in config.qllama_graphs else ()
    step = min((after - before for before, after in pairwise(stored)), default=qllama.num_layers)
    return tuple(sorted({*range(stored[0] % step, qllama.num_layers, step), *stored}))


def _count(names: Iterable[str], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in names if name.startswith(prefix))
