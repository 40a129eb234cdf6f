"""InternViT, the tower of every model: its fields in `config.json`, its tensors and its sites."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from internvl_edge.calib.sites import NormFold, RowFold, Site
from internvl_edge.export.models.config import ModelConfig, PartConfig, VisionConfig
from internvl_edge.export.models.families.common_fields import (
    CONFIG_FILE,
    LIBRARY,
    MIXTURE,
    OF_NO_TEXT,
    QUANTIZED_STORAGE,
    TIES,
    TRAINING,
    square,
)
from internvl_edge.export.models.families.family import (
    BlockStack,
    ConfigSource,
    Family,
    Module,
    Shapes,
    StoredShapes,
    StoredTensor,
    check_heads,
    layer_count,
)
from internvl_edge.export.models.families.fields import FieldTable, Honoured, Limited, flag, harmless, only
from internvl_edge.export.models.internvit import InternVisionModel, resize_position_table

VISION_BLOCK = "vision_model.encoder.layers.{}"
POSITION_TABLE = "vision_model.embeddings.position_embedding"
_PATCHES = "vision_model.embeddings.patch_embedding.weight"

_HEADS = {
    (3200, 12800, "rms_norm", True, False): 25,
    (1024, 4096, "layer_norm", False, True): 16,
}
"""(width, width of the MLP, norm, q/k norm, qkv bias) -> number of heads of the two released towers (MODEL.md 5)."""

_NATIVE_EPS = 1e-6
"""Epsilon of the norms of queries and keys in transformers' own port, whatever the file says (CHAT.md 2)."""
_ERF_GELU = ("gelu", "gelu_python")


def _activation(value: Any) -> Any:
    """Return ``gelu`` for both names of the exact GELU, and other values unchanged."""
    return "gelu" if value in _ERF_GELU else value


VISION = FieldTable(
    CONFIG_FILE,
    {
        **LIBRARY,
        **TRAINING,
        **TIES,
        **QUANTIZED_STORAGE,
        **OF_NO_TEXT,
        **MIXTURE,
        "hidden_size": Honoured("hidden_size"),
        "num_attention_heads": Honoured("num_heads"),
        "num_hidden_layers": Honoured("num_layers"),
        "intermediate_size": Honoured("intermediate_size"),
        "patch_size": Honoured("patch_size", square),
        "image_size": Honoured("image_size", square),
        "norm_type": Honoured("norm_type"),
        "layer_norm_eps": Honoured("eps"),
        "layer_norm_epsilon": Honoured("eps"),
        "rms_norm_eps": Honoured("eps"),
        "norm_eps": Honoured("eps"),
        "qkv_bias": Honoured("qkv_bias", flag),
        "attention_bias": Honoured("qkv_bias", flag),
        "qk_normalization": Honoured("qk_norm", flag),
        "use_qk_norm": Honoured("qk_norm", flag),
        "hidden_act": Honoured("hidden_act", _activation),
        "head_dim": Honoured("head_dim"),
        "num_channels": Limited(lambda value: value == 3, "colour channels instead of 3"),
        "num_key_value_heads": Honoured("key_value_heads"),
        "use_moe": only(False, finding="is a mixture of experts, which the graphs have not"),
        "use_mean_pooling": only(True, finding="adds a norm behind the tower, which the graphs have not"),
        "use_absolute_position_embeddings": only(True, finding="leaves out the position table, which the graphs have"),
        "use_mask_token": only(True, False),
        "pruned_heads": only({}, finding="are heads that the graphs have"),
        **harmless("force_image_size"),
    },
)
"""The stored position table determines the picture size; ``force_image_size`` is for models around the tower."""


_NATIVE_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 1024,
    "num_heads": 16,
    "num_layers": 24,
    "intermediate_size": 4096,
    "image_size": 448,
    "norm_type": "layer_norm",
    "qk_norm": False,
}
"""Defaults of transformers' own port, where they are not those of `VisionConfig`."""


def _read(source: ConfigSource, parts: Sequence[PartConfig]) -> VisionConfig:
    alone = source.layout == "internvit"
    part = "" if alone else "vision_config"
    fields = dict(source.top) if alone else source.reader.read(VISION, source.part(part), part)
    if source.layout == "internvl_hf":
        fields = {**_NATIVE_DEFAULTS, **fields}
        if fields["qk_norm"] and fields.get("eps", _NATIVE_EPS) != _NATIVE_EPS:
            fields["qk_eps"] = _NATIVE_EPS
    heads = {name: fields.pop(name, None) for name in ("key_value_heads", "head_dim")}
    if not alone and "image_size" in source.top:
        fields["image_size"] = source.top["image_size"]
    config = VisionConfig(**fields)
    check_heads("vision", config.num_heads, config.head_dim, heads, source.reader)
    return config


def _from_shapes(stored: StoredShapes, parts: Sequence[PartConfig]) -> VisionConfig:
    shapes = stored.needed
    width, _, patch, _ = shapes[_PATCHES]
    first = VISION_BLOCK.format(0)
    norm = "layer_norm" if f"{first}.norm1.bias" in shapes else "rms_norm"
    hidden = shapes[f"{first}.mlp.fc1.weight"][0]
    qkv_bias, qk_norm = f"{first}.attn.qkv.bias" in shapes, f"{first}.attn.q_norm.weight" in shapes
    heads = _HEADS.get((width, hidden, norm, qk_norm, qkv_bias))
    if heads is None:
        stored.unclear.append(f"a tower of width {width}")
    return VisionConfig(
        hidden_size=width,
        num_heads=heads or 1,
        num_layers=layer_count(shapes, VISION_BLOCK.format("")),
        intermediate_size=hidden,
        patch_size=patch,
        image_size=_square_side(shapes[POSITION_TABLE][1] - 1) * patch,
        norm_type=norm,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
    )


def _as_stored(model: ModelConfig, shapes: Shapes) -> VisionConfig | None:
    """Return the tower with the picture size of the stored position table, or None if there is no valid table."""
    table = shapes.get(POSITION_TABLE)
    if table is None or len(table) != 3 or not (side := _square_side(table[1] - 1)):
        return None
    return replace(model.vision, image_size=side * model.vision.patch_size)


def _square_side(count: int) -> int:
    """Return the root of `count` if it is a square number, else 0."""
    side = math.isqrt(max(count, 0))
    return side if side * side == count else 0


def _modules(model: ModelConfig) -> Mapping[str, Module]:
    return {"vision_model": InternVisionModel(model.vision)}


def _computed(model: ModelConfig, stored: Mapping[str, StoredTensor]) -> Mapping[str, Tensor]:
    """Return the position table resized to the grid of the model's pictures, if it is stored for another grid."""
    grid, table = model.vision.grid, stored[POSITION_TABLE]
    if table.shape[1] == model.vision.tokens:
        return {}
    return {POSITION_TABLE: resize_position_table(table.torch(), (grid, grid))}


def _sites(model: ModelConfig) -> Iterator[Site]:
    for index in range(model.vision.num_layers):
        yield from _block_sites(model.vision, index)


def _block_sites(config: VisionConfig, index: int) -> Iterator[Site]:
    path, width = VISION_BLOCK.format(index), config.hidden_size
    qkv, proj, fc1, fc2 = f"{path}.attn.qkv", f"{path}.attn.proj", f"{path}.mlp.fc1", f"{path}.mlp.fc2"
    values = RowFold(weight=f"{qkv}.weight", start=2 * width, bias=f"{qkv}.bias" if config.qkv_bias else None)

    def site(kind: str, linear: str, fold: NormFold | RowFold | None, channels: int, scale: str | None = None) -> Site:
        return Site(
            name=linear,
            linears=(linear,),
            tower="vision",
            block=index,
            kind=kind,
            channels=channels,
            fold=fold,
            layer_scale=scale,
        )

    def norm(name: str) -> NormFold:
        parts = ("weight",) if config.norm_type == "rms_norm" else ("weight", "bias")
        return NormFold(parameters=tuple(f"{path}.{name}.{part}" for part in parts))

    yield site("qkv", qkv, norm("norm1"), width)
    yield site("proj", proj, values, width, f"{path}.ls1")
    yield site("fc1", fc1, norm("norm2"), width)
    yield site("fc2", fc2, None, config.intermediate_size, f"{path}.ls2")


VISION_STACK = BlockStack(
    path=VISION_BLOCK,
    count=lambda model: model.vision.num_layers,
    width=lambda model: model.vision.intermediate_size,
    embeddings="vision_model.embeddings",
    run=lambda model, block, rows, context, past: (block(rows), None),
)

_NATIVE = r"^(?:model\.)?vision_tower\."
_NATIVE_NAMES = (
    (re.compile(_NATIVE + r"embeddings\.cls_token$"), "vision_model.embeddings.class_embedding"),
    (re.compile(_NATIVE + r"embeddings\.position_embeddings$"), POSITION_TABLE),
    (re.compile(_NATIVE + r"embeddings\.mask_token$"), "vision_model.embeddings.mask_token"),
    (re.compile(_NATIVE + r"embeddings\.patch_embeddings\.projection\."), "vision_model.embeddings.patch_embedding."),
    *(
        (re.compile(_NATIVE + rf"encoder\.layer\.(\d+)\.{name}"), rf"vision_model.encoder.layers.\1.{official}")
        for name, official in {
            r"layernorm_before\.": "norm1.",
            r"layernorm_after\.": "norm2.",
            r"lambda_([12])$": r"ls\2",
            r"attention\.projection_layer\.": "attn.proj.",
            r"attention\.": "attn.",
            r"mlp\.": "mlp.",
        }.items()
    ),
)
"""Names of transformers' own port, in both spellings (CHAT.md 3)."""

INTERNVIT = Family(
    name="internvit",
    kind=VisionConfig,
    tensors=("vision_model",),
    read=_read,
    from_shapes=_from_shapes,
    as_stored=_as_stored,
    in_plain_file=lambda model, shapes: model.vision,
    modules=_modules,
    computed=_computed,
    sites=_sites,
    stack=VISION_STACK,
    plain_root=("blocks.", VISION_BLOCK.format("")),
    other_names=(
        (re.compile(r"^cls_token$"), "vision_model.embeddings.class_embedding"),
        (re.compile(r"^pos_embed$"), POSITION_TABLE),
        (re.compile(r"^patch_embed\.proj\."), "vision_model.embeddings.patch_embedding."),
        (re.compile(r"^blocks\.(\d+)\.(ls[12])\.gamma$"), r"vision_model.encoder.layers.\1.\2"),
        *_NATIVE_NAMES,
    ),
    joined={"attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj")},
    unused=(r"position_ids$", r"^vision_model\.embeddings\.mask_token$"),
)
