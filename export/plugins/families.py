"""The table of kernel families: tensors, attributes and work of each plugin.

A plugin whose name ends in `CODED` has a further input `scales`, and writes 8-bit codes for the next linear.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from internvl_edge.export.plugins.family import CODED, Family, Output
from internvl_edge.export.plugins.launches import Axis, Constant
from internvl_edge.export.plugins.tensorrt_plugins import Plugin
from internvl_edge.export.plugins.tiling.tiles import Tiles
from internvl_edge.export.plugins.work import (
    CODE_TYPES,
    WIDE_TYPES,
    combine_work,
    cross_work,
    decode_work,
    pool_work,
    qllama_work,
    rows_work,
    vit_work,
)


def tile_choices(*shapes: str) -> tuple[Tiles, ...]:
    """Return tiles from texts such as ``64x32 w4 s2``: BM, BN, warps, stages."""
    found = []
    for shape in shapes:
        size, warps, stages = shape.split()
        rows, _, keys = size.partition("x")
        found.append(Tiles(constants={"BM": int(rows), "BN": int(keys)}, warps=int(warps[1:]), stages=int(stages[1:])))
    return tuple(found)


_HEADS = {"heads": "HEADS", "head_dim": "D"}
_QLLAMA = {"heads": 32, "head_dim": 128}
_ROW_TILES = tile_choices(
    *("64x32 w4 s1", "64x32 w4 s2", "64x64 w4 s1", "64x64 w4 s2", "64x64 w8 s2", "64x128 w8 s2"),
    *("128x32 w8 s2", "128x64 w8 s1", "128x64 w8 s2", "128x64 w8 s3", "128x128 w8 s2"),
)
"""Tiles to search; larger ones, or fewer warps for these, spilled registers on every SM that was tried."""
_STEP = ("q", "cos", "sin", "positions", "mask", "key_cache", "value_cache")
_SPLIT = {"heads": 32, "head_dim": 128, "splits": 8}
_PARTIAL = ("B", "heads", "splits")
_OUT = Output(name="out", type="@out:q", shape=("B", "N", "heads*head_dim"))
_TOWER: Mapping[str, tuple[Axis, ...]] = {"B": (("qkv", 0),), "N": (("qkv", 1),)}
_TOWER_SIZES = ({"B": 1, "N": 257}, {"B": 1, "N": 1025})
_PRESENT = ("B", "heads", "TOTAL", "head_dim")


def _qllama(
    name: str,
    inputs: tuple[str, ...],
    *,
    causal: bool,
    total: tuple[Axis, ...],
    outputs: tuple[Output, ...],
    typical: tuple[Mapping[str, int], ...],
    copy: bool = False,
) -> tuple[Family, Family]:
    """Return the family of QLLaMA's self-attention in one role, and the one that writes codes."""
    capacity: tuple[Axis, ...] = (("key_cache", 2),) if "key_cache" in inputs else total
    attention = Family(
        name=name,
        kernel="qllama_attention.qllama_attention",
        inputs=inputs,
        sizes={"B": (("q", 0),), "N": (("q", 1),), "TOTAL": total, "CAPACITY": capacity},
        integers=("N", "TOTAL", "CAPACITY"),
        outputs=outputs,
        attributes=_HEADS,
        fixed={"CAUSAL": causal, "COPY": copy},
        scales=("q", "k", "v", "key_cache", "value_cache", "out"),
        typed_by="q",
        choices=_ROW_TILES,
        work=qllama_work(causal),
        typical=typical,
        variants=tuple((_types(inputs, kind), _QLLAMA) for kind in WIDE_TYPES),
    )
    return attention, _coded(attention)


def _coded(family: Family, inputs_in_codes: Sequence[tuple[Mapping[str, str], Mapping[str, Constant]]] = ()) -> Family:
    """Return the variant of `family` that takes `scales` and writes codes; attribute ``out`` is their type."""
    written = tuple(
        ({**types, "scales": "fp32"}, {**attributes, "out": kind})
        for types, attributes in family.variants
        for kind in CODE_TYPES
    )
    return replace(
        family,
        name=f"{family.name}{CODED}",
        inputs=(*family.inputs, "scales"),
        variants=(*written, *inputs_in_codes),
    )


def _vit(*, normed: bool) -> tuple[Family, Family]:
    """Return the family of the towers' attention, and the one that writes codes and also reads 8-bit projections."""
    inputs = ("qkv", *(("statistics", "q_gain", "k_gain") if normed else ()))
    heads, head_dim = (25, 128) if normed else (16, 64)
    attributes: dict[str, Constant] = {"heads": heads, "head_dim": head_dim}

    def types(kind: str, gain: str) -> dict[str, str]:
        return {name: {"qkv": kind, "statistics": "fp32"}.get(name, gain) for name in inputs}

    attention = Family(
        name=f"vit_attention{'' if normed else '_plain'}",
        kernel="vit_attention.vit_attention",
        inputs=inputs,
        sizes=_TOWER,
        integers=("N",),
        outputs=(Output(name="out", type="@out:qkv", shape=("B", "N", "heads*head_dim")),),
        attributes=_HEADS,
        typed_by="qkv",
        choices=_ROW_TILES,
        work=vit_work,
        typical=_TOWER_SIZES,
        variants=tuple((types(kind, kind), attributes) for kind in WIDE_TYPES),
    )
    return attention, _coded(
        attention, [({**types(kind, "fp16"), "scales": "fp32"}, attributes) for kind in CODE_TYPES]
    )


def _norms(name: str, inputs: tuple[str, ...], kinds: Sequence[str]) -> Family:
    """Return the family that computes the statistics of the norms of q and k before a tower's attention."""
    return Family(
        name=name,
        kernel="qk_norm.qk_norm",
        inputs=inputs,
        sizes=_TOWER,
        integers=(),
        outputs=(Output(name="statistics", type="=fp32", shape=("B", "N", 2)),),
        attributes={"width": "WIDTH", "eps": "EPS"},
        typed_by="qkv",
        choices=(Tiles(constants={"BLOCK": 1024}, warps=4, stages=1),),
        work=rows_work,
        typical=_TOWER_SIZES,
        variants=tuple(
            ({name: {"qkv": kind}.get(name, "fp32") for name in inputs}, {"width": 25 * 128, "eps": 1e-6})
            for kind in kinds
        ),
        products=False,
    )


def _pool(name: str, outputs: tuple[Output, ...], splits: int) -> Family:
    inputs = ("q", "k", "v")
    return Family(
        name=name,
        kernel="attention_pool.attention_pool",
        inputs=inputs,
        sizes={"B": (("q", 0),), "N": (("k", 1),)},
        integers=("N",),
        outputs=outputs,
        attributes={**_HEADS, "splits": "SPLITS"},
        typed_by="q",
        choices=tuple(
            Tiles(constants={"BN": keys}, warps=warps, stages=stages)
            for keys in (16, 32, 64)
            for warps in (4, 8)
            for stages in (1, 2)
        ),
        work=pool_work,
        typical=({"B": 1, "N": 257}, {"B": 1, "N": 1025}),
        variants=tuple(
            (dict.fromkeys(inputs, kind), {"heads": 16, "head_dim": head_dim, "splits": splits})
            for head_dim in (200, 256)
            for kind in WIDE_TYPES
        ),
        products=False,
    )


def _types(inputs: Sequence[str], kind: str) -> dict[str, str]:
    """Return the types of a 16-bit variant, with integers for mask and positions."""
    others = {"mask": "i64", "positions": "i64"}
    return {name: others.get(name, kind) for name in inputs}


def _kept(source: str, shape: tuple[str | int, ...]) -> tuple[Output, ...]:
    value = source.replace("key", "value")
    return (Output(name="key_out", type=source, shape=shape), Output(name="value_out", type=value, shape=shape))


_CROSS = Family(
    name="query_cross_attention",
    kernel="query_cross_attention.query_cross_attention",
    inputs=("q", "k", "v"),
    sizes={"B": (("q", 0),), "Q": (("q", 1),), "N": (("k", 1),)},
    integers=("Q", "N"),
    outputs=(Output(name="out", type="@out:q", shape=("B", "Q", "heads*head_dim")),),
    attributes=_HEADS,
    fixed={"SPLITS": 1},
    typed_by="q",
    choices=(*tile_choices("32x32 w4 s2", "32x64 w4 s2"), *_ROW_TILES),
    work=cross_work,
    typical=({"B": 1, "Q": 96, "N": 257}, {"B": 1, "Q": 96, "N": 1025}),
    variants=tuple((dict.fromkeys(("q", "k", "v"), kind), _QLLAMA) for kind in WIDE_TYPES),
)
_POOL = _pool("attention_pool", (Output(name="out", type="@out:q", shape=("B", 1, "heads*head_dim")),), 1)

FAMILIES: tuple[Family, ...] = (
    _norms("vit_norms", ("qkv",), WIDE_TYPES),
    _norms(f"vit_norms{CODED}", ("qkv", "scales"), CODE_TYPES),
    *_vit(normed=True),
    *_vit(normed=False),
    *_qllama(
        "qllama_text",
        ("q", "cos", "sin", "mask"),
        causal=True,
        total=(("mask", 1),),
        outputs=(_OUT,),
        typical=({"B": 8, "N": 80, "TOTAL": 80},),
    ),
    *_qllama(
        "qllama_matching",
        ("q", "cos", "sin", "mask"),
        causal=False,
        total=(("mask", 1),),
        outputs=(_OUT,),
        typical=({"B": 1, "N": 176, "TOTAL": 176},),
    ),
    *_qllama(
        "qllama_queries",
        ("q", "cos", "sin"),
        causal=False,
        total=(("q", 1),),
        outputs=(*_kept("q", _PRESENT), _OUT),
        typical=({"B": 1, "N": 96, "TOTAL": 96},),
    ),
    *_qllama(
        "qllama_prompt",
        ("q", "cos", "sin", "positions", "mask", "key_cache", "value_cache"),
        causal=True,
        copy=True,
        total=(("mask", 1),),
        outputs=(*_kept("key_cache", _PRESENT), _OUT),
        typical=({"B": 1, "N": 8, "TOTAL": 104},),
    ),
    Family(
        name="qllama_decode",
        kernel="qllama_decode.qllama_decode",
        inputs=_STEP,
        sizes={"B": (("q", 0),), "TOTAL": (("mask", 1),), "CAPACITY": (("key_cache", 2),)},
        integers=("TOTAL", "CAPACITY"),
        outputs=(
            *_kept("key_cache", _PRESENT),
            Output(name="partial", type="=fp32", shape=(*_PARTIAL, "head_dim")),
            Output(name="stats", type="=fp32", shape=(*_PARTIAL, 2)),
        ),
        attributes={**_HEADS, "splits": "SPLITS"},
        fixed={"COPY": True},
        typed_by="q",
        choices=tuple(
            Tiles(constants={"BN": keys, "STAGES": stages}, warps=warps, stages=stages)
            for keys in (16, 32, 64)
            for warps in (2, 4)
            for stages in (1, 2, 3)
        ),
        work=decode_work,
        typical=({"B": 1, "TOTAL": 128}, {"B": 8, "TOTAL": 128}),
        variants=tuple((_types(_STEP, kind), _SPLIT) for kind in WIDE_TYPES),
        products=False,
    ),
    _CROSS,
    _coded(_CROSS),
    _POOL,
    _coded(_POOL),
    _pool(
        "attention_pool_split",
        (
            Output(name="out", type="=fp32", shape=(*_PARTIAL, "head_dim")),
            Output(name="stats", type="=fp32", shape=(*_PARTIAL, 2)),
        ),
        8,
    ),
    Family(
        name="combine",
        kernel="combine.combine",
        inputs=("partial", "stats"),
        sizes={"R": (("partial", 0),)},
        integers=(),
        outputs=(Output(name="out", type="@out", shape=("R", 1, "heads*head_dim")),),
        attributes={**_HEADS, "splits": "SPLITS"},
        fixed={"SCALE": 0},
        typed_by="partial",
        choices=(Tiles(constants={}, warps=4, stages=1),),
        work=combine_work,
        typical=({"R": 1}, {"R": 8}),
        variants=tuple(
            ({"partial": "fp32", "stats": "fp32"}, {**attributes, "out": kind})
            for attributes in (_SPLIT, {"heads": 16, "head_dim": 200, "splits": 8})
            for kind in WIDE_TYPES
        ),
        products=False,
    ),
)


def plugins() -> tuple[Plugin, ...]:
    """Return all families for `register_plugins`."""
    return tuple(family.plugin() for family in FAMILIES)
