"""The kernels as families of launches: which tensors each plugin has, what its node tells, and what it costs.

TensorRT's plugins have no optional inputs, so that a kernel which takes some has a plugin for each set of them. A
plugin whose name ends in ``_8bit`` takes `scales` besides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from internvl_edge.export.engine.targets import FIRST_FP8_SM
from internvl_edge.export.plugins.launches import TYPE_BYTES, Axis, Constant, Launch, Tensor
from internvl_edge.export.plugins.tensorrt_plugins import Plugin
from internvl_edge.export.plugins.tiles import Tiles, searched_tiles
from internvl_edge.export.plugins.tiles_model import Work
from internvl_edge.runtime.errors import EngineError

FIRST_PRODUCTS_SM = 80
"""Triton emits no tensor-core code for Turing."""

WIDE_TYPES = ("fp16", "bf16")
CODE_TYPES = ("int8", "fp8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How an output follows from the inputs."""

    name: str
    type: str
    """An input whose type it has, an attribute that names the type (``@out``), or a type (``=fp32``)."""
    shape: tuple[str | int, ...] = ()
    """Names of sizes; a product of attributes and numbers as ``heads*head_dim``."""
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One plugin: a kernel with a fixed set of tensors."""

    name: str
    kernel: str
    inputs: tuple[str, ...]
    sizes: Mapping[str, tuple[Axis, ...]] = field(hash=False)
    integers: tuple[str, ...]
    outputs: tuple[Output, ...]
    attributes: Mapping[str, str] = field(hash=False)
    """What a node tells -> the kernel's constant, as ``{"heads": "HEADS"}``."""
    fixed: Mapping[str, Constant] = field(hash=False, default_factory=dict)
    typed_by: str
    """The input whose type says which products the kernel makes; the table of tiles goes by it."""
    choices: tuple[Tiles, ...]
    """What the search tries; what is used unsearched where there is but one."""
    work: Callable[[Launch, Mapping[str, int]], Work]
    typical: tuple[Mapping[str, int], ...] = field(hash=False)
    """Sizes that tiles are chosen for."""
    variants: tuple[tuple[Mapping[str, str], Mapping[str, Constant]], ...] = field(hash=False)
    """Types of the inputs, and attributes, that are searched and listed."""
    grid_function: str = "grid"
    products: bool = True
    """Whether its work is products of matrices, so that a kernel without tensor cores does not serve."""

    def key(self, types: Mapping[str, str], attributes: Mapping[str, Constant]) -> str:
        """Return the row of the table of tiles; bf16 goes by fp16: same bytes, same units."""
        kinds = [types[name].replace("bf16", "fp16") for name in self.inputs if name in self._tile_inputs()]
        width = attributes.get("head_dim", attributes.get("width", 0))
        return " ".join([self.name, "/".join(dict.fromkeys(kinds)), f"d{width}"])

    def launch(self, types: Mapping[str, str], attributes: Mapping[str, Constant], tiles: Tiles) -> Launch:
        """Return one launch."""
        constants = {ours: attributes[name] for name, ours in self.attributes.items()}
        return Launch(
            plugin=self.name,
            kernel=self.kernel,
            inputs=tuple(Tensor(name=name, type=types[name]) for name in self.inputs),
            sizes=self.sizes,
            integers=self.integers,
            outputs=tuple(_output(output, types, attributes) for output in self.outputs),
            constants={**self.fixed, **constants, **tiles.constants},
            warps=tiles.warps,
            stages=tiles.stages,
            grid_function=self.grid_function,
        )

    def launches(self, types: Mapping[str, str], attributes: Mapping[str, Constant], sm: int) -> Sequence[Launch]:
        """Return the launches that serve on `sm`, the best by the model first; none where there is no kernel."""
        if missing := [name for name in self.attributes if name not in attributes]:
            raise EngineError(f"{self.name}: the node lacks {', '.join(missing)}")
        found = searched_tiles(self.key(types, attributes), sm) or (self.choices if len(self.choices) == 1 else ())
        return [self.launch(types, attributes, tiles) for tiles in found]

    def refusal(self, types: Mapping[str, str], attributes: Mapping[str, Constant], sm: int) -> str:
        """Return why no kernel serves, in a few words; empty if one does."""
        kinds = set(types.values())
        if sm < FIRST_PRODUCTS_SM:
            return f"sm_{sm}: Triton emits no tensor-core code for it"
        if "fp8" in kinds and sm < FIRST_FP8_SM:
            return f"sm_{sm} has no FP8"
        kind = types[self.typed_by]
        listed = {variant[self.typed_by] for variant, _ in self.variants}
        if kind not in listed:
            return f"no kernel takes {kind}; {', '.join(sorted(listed))} are there"
        if not self.launches(types, attributes, sm):
            return f"no tiles were found for head dim {attributes.get('head_dim', '?')} on sm_{sm}"
        return ""

    def plugin(self) -> Plugin:
        """Return it for TensorRT."""
        names = tuple(output.name for output in self.outputs)
        return Plugin(name=self.name, inputs=self.inputs, outputs=names, launch=self.launches)

    def _tile_inputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.inputs if name in (self.typed_by, "key_cache", "k"))


_CODE_OPERATIONS = 5.5
"""Per number; fitted with the constants of `tiles_model`."""


def attention_work(
    launch: Launch, *, batch: int, rows: int, keys: float, heads: int, head_dim: int, bytes_moved: float, normed: bool
) -> Work:
    """Return the work of attention tiles of BM rows and BN keys.

    Per score: scale, mask, maximum, subtraction, sum and a conversion; per value of the accumulator a rescaling per
    turn; per value of a normed or rotated key four operations, each turn anew; per 8-bit code of keys and values
    `_CODE_OPERATIONS`, for its conversion or the transposition that 8-bit products want.
    """
    tile_rows, tile_keys = int(launch.constants.get("BM", 1)), int(launch.constants["BN"])
    padded = 1 << (head_dim - 1).bit_length()
    kinds = {tensor.type for tensor in launch.inputs}
    kind = "fp8" if "fp8" in kinds else "int8" if "int8" in kinds else "bf16" if "bf16" in kinds else "fp16"
    width = 1 if kind in CODE_TYPES else 2
    return Work(
        blocks=-(-rows // tile_rows) * batch * heads,
        steps=-(-keys // tile_keys),
        step_flops=4.0 * max(tile_rows, 16) * tile_keys * padded,
        step_exponentials=tile_rows * tile_keys,
        step_arithmetic=6.0 * tile_rows * tile_keys
        + 2.0 * tile_rows * padded
        + (normed * 4.0 + (kind in CODE_TYPES) * 2.0 * _CODE_OPERATIONS) * tile_keys * padded,
        step_bytes=2.0 * tile_keys * head_dim * width,
        unique_bytes=bytes_moved,
        useful_flops=4.0 * rows * keys * head_dim * heads * batch,
        product_type=kind,
    )


def tile_choices(*shapes: str) -> tuple[Tiles, ...]:
    """Return choices written as ``64x32 w4 s2``: BM, BN, warps, stages."""
    found = []
    for shape in shapes:
        size, warps, stages = shape.split()
        rows, _, keys = size.partition("x")
        found.append(Tiles(constants={"BM": int(rows), "BN": int(keys)}, warps=int(warps[1:]), stages=int(stages[1:])))
    return tuple(found)


def _output(output: Output, types: Mapping[str, str], attributes: Mapping[str, Constant]) -> Tensor:
    if output.type.startswith("="):
        kind = output.type[1:]
    elif output.type.startswith("@"):
        name, _, otherwise = output.type[1:].partition(":")
        kind = str(attributes.get(name, types.get(otherwise, "")))
    else:
        kind = types[output.type]
    shape = tuple(_axis(axis, attributes) for axis in output.shape)
    return Tensor(name=output.name, type=kind, shape=shape, alias=output.alias)


def _axis(axis: str | int, attributes: Mapping[str, Constant]) -> str | int:
    if isinstance(axis, int):
        return axis
    factors = axis.split("*")
    if not all(factor in attributes or factor.isdigit() for factor in factors):
        return axis
    found = 1
    for factor in factors:
        found *= int(attributes.get(factor, factor))
    return found


_HEADS = {"heads": "HEADS", "head_dim": "D"}
_QLLAMA = {"heads": 32, "head_dim": 128}
_ROW_TILES = tile_choices(
    *("64x32 w4 s1", "64x32 w4 s2", "64x64 w4 s1", "64x64 w4 s2", "64x64 w8 s2", "64x128 w8 s2"),
    *("128x32 w8 s2", "128x64 w8 s1", "128x64 w8 s2", "128x64 w8 s3", "128x128 w8 s2"),
)
"""Larger tiles, and fewer warps for these, spilled on every SM that was tried."""


def _qllama_work(causal: bool) -> Callable[[Launch, Mapping[str, int]], Work]:
    def work(launch: Launch, sizes: Mapping[str, int]) -> Work:
        heads, head_dim = int(launch.constants["HEADS"]), int(launch.constants["D"])
        rows, batch, total = sizes["N"], sizes["B"], sizes["TOTAL"]
        width = heads * head_dim
        element = TYPE_BYTES[launch.inputs[0].type]
        cached = 4 * batch * (total - rows) * width * element if total > rows else 0  # read, and copied
        moved = 4 * batch * rows * width * element + cached
        keys = total - rows + (rows / 2 if causal else rows)
        return attention_work(
            launch, batch=batch, rows=rows, keys=keys, heads=heads, head_dim=head_dim, bytes_moved=moved, normed=True
        )

    return work


def _qllama(
    name: str,
    inputs: tuple[str, ...],
    *,
    causal: bool,
    total: tuple[Axis, ...],
    outputs: tuple[Output, ...],
    typical: tuple[Mapping[str, int], ...],
    copy: bool = False,
) -> Family:
    capacity: tuple[Axis, ...] = (("key_cache", 2),) if "key_cache" in inputs else total
    return Family(
        name=name,
        kernel="qllama_attention.qllama_attention",
        inputs=inputs,
        sizes={"B": (("q", 0),), "N": (("q", 1),), "TOTAL": total, "CAPACITY": capacity},
        integers=("N", "TOTAL", "CAPACITY"),
        outputs=outputs,
        attributes=_HEADS,
        fixed={"CAUSAL": causal, "COPY": copy},
        typed_by="q",
        choices=_ROW_TILES,
        work=_qllama_work(causal),
        typical=typical,
        variants=tuple((_types(inputs, kind), _QLLAMA) for kind in WIDE_TYPES),
    )


def _vit_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    heads, head_dim = int(launch.constants["HEADS"]), int(launch.constants["D"])
    rows, batch = sizes["N"], sizes["B"]
    read, written = TYPE_BYTES[launch.inputs[0].type], TYPE_BYTES[launch.outputs[0].type]
    moved = batch * rows * heads * head_dim * (3 * read + written)
    return attention_work(
        launch, batch=batch, rows=rows, keys=rows, heads=heads, head_dim=head_dim, bytes_moved=moved, normed=False
    )


def _rows_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    rows, width = sizes["B"] * sizes["N"], int(launch.constants["WIDTH"])
    read = width * TYPE_BYTES[launch.inputs[0].type]
    return Work(
        blocks=2 * rows,
        steps=1,
        step_flops=0,
        step_exponentials=0,
        step_arithmetic=2 * width,
        step_bytes=read,
        unique_bytes=2.0 * rows * read,
        useful_flops=4.0 * rows * width,
        product_type="fp16",
    )


def _vit(*, normed: bool, coded: bool) -> tuple[Family, ...]:
    """Return the towers' attention, and the pass over rows that norms take before it."""
    name = f"vit_attention{'' if normed else '_plain'}{'_8bit' if coded else ''}"
    inputs = ("qkv", *(("statistics", "q_gain", "k_gain") if normed else ()), *(("scales",) if coded else ()))
    kinds = CODE_TYPES if coded else WIDE_TYPES
    heads, head_dim = (25, 128) if normed else (16, 64)
    told: dict[str, Constant] = {"heads": heads, "head_dim": head_dim}
    others = {"statistics": "fp32", "scales": "fp32"}
    wide = {kind: kind if kind in WIDE_TYPES else "fp16" for kind in kinds}

    def types(kind: str) -> dict[str, str]:
        return {tensor: kind if tensor == "qkv" else others.get(tensor, wide[kind]) for tensor in inputs}

    attention = Family(
        name=name,
        kernel="vit_attention.vit_attention",
        inputs=inputs,
        sizes={"B": (("qkv", 0),), "N": (("qkv", 1),)},
        integers=("N",),
        outputs=(Output(name="out", type="@out:qkv", shape=("B", "N", "heads*head_dim")),),
        attributes=_HEADS,
        typed_by="qkv",
        choices=_ROW_TILES,
        work=_vit_work,
        typical=({"B": 1, "N": 257}, {"B": 1, "N": 1025}),
        variants=tuple((types(kind), told) for kind in kinds),
    )
    if not normed:
        return (attention,)
    rows = ("qkv", *(("scales",) if coded else ()))
    width: dict[str, Constant] = {"width": heads * head_dim, "eps": 1e-6}
    norms = Family(
        name=f"vit_norms{'_8bit' if coded else ''}",
        kernel="qk_norm.qk_norm",
        inputs=rows,
        sizes=attention.sizes,
        integers=(),
        outputs=(Output(name="statistics", type="=fp32", shape=("B", "N", 2)),),
        attributes={"width": "WIDTH", "eps": "EPS"},
        typed_by="qkv",
        choices=(Tiles(constants={"BLOCK": 1024}, warps=4, stages=1),),
        work=_rows_work,
        typical=attention.typical,
        variants=tuple(({tensor: types(kind)[tensor] for tensor in rows}, width) for kind in kinds),
        products=False,
    )
    return (norms, attention)


def _types(inputs: Sequence[str], kind: str) -> dict[str, str]:
    """Return the types of a 16-bit variant: integers for ids, fp32 for scales."""
    others = {"mask": "i64", "positions": "i64", "scales": "fp32"}
    return {name: others.get(name, kind) for name in inputs}


_OUT = Output(name="out", type="@out:q", shape=("B", "N", "heads*head_dim"))
_PRESENT = ("B", "heads", "TOTAL", "head_dim")


def _kept(source: str, shape: tuple[str | int, ...]) -> tuple[Output, ...]:
    value = source.replace("key", "value")
    return (Output(name="key_out", type=source, shape=shape), Output(name="value_out", type=value, shape=shape))


FAMILIES: tuple[Family, ...] = (
    *_vit(normed=True, coded=False),
    *_vit(normed=False, coded=False),
    *_vit(normed=True, coded=True),
    *_vit(normed=False, coded=True),
    _qllama(
        "qllama_text",
        ("q", "cos", "sin", "mask"),
        causal=True,
        total=(("mask", 1),),
        outputs=(_OUT,),
        typical=({"B": 8, "N": 80, "TOTAL": 80},),
    ),
    _qllama(
        "qllama_matching",
        ("q", "cos", "sin", "mask"),
        causal=False,
        total=(("mask", 1),),
        outputs=(_OUT,),
        typical=({"B": 1, "N": 176, "TOTAL": 176},),
    ),
    _qllama(
        "qllama_queries",
        ("q", "cos", "sin"),
        causal=False,
        total=(("q", 1),),
        outputs=(*_kept("q", _PRESENT), _OUT),
        typical=({"B": 1, "N": 96, "TOTAL": 96},),
    ),
    _qllama(
        "qllama_prompt",
        ("q", "cos", "sin", "positions", "mask", "key_cache", "value_cache"),
        causal=True,
        copy=True,
        total=(("mask", 1),),
        outputs=(*_kept("key_cache", _PRESENT), _OUT),
        typical=({"B": 1, "N": 8, "TOTAL": 104},),
    ),
)


def _decode_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    heads, head_dim, splits = (int(launch.constants[name]) for name in ("HEADS", "D", "SPLITS"))
    batch, total = sizes["B"], sizes["TOTAL"]
    element = TYPE_BYTES[next(tensor.type for tensor in launch.inputs if tensor.name == "key_cache")]
    moved = (4 if launch.constants["COPY"] else 2) * batch * total * heads * head_dim * element
    lane = attention_work(
        launch,
        batch=batch,
        rows=splits,
        keys=-(-total // splits),
        heads=heads,
        head_dim=head_dim,
        bytes_moved=moved,
        normed=False,
    )
    arithmetic = 6.0 * int(launch.constants["BN"]) * head_dim  # two products by hand, a rescaling, conversions
    return replace(lane, step_flops=0.0, step_arithmetic=arithmetic)


def _combine_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    heads, head_dim, splits = (int(launch.constants[name]) for name in ("HEADS", "D", "SPLITS"))
    values = head_dim * splits
    return Work(
        blocks=sizes["B"] * heads,
        steps=1,
        step_flops=0.0,
        step_exponentials=splits,
        step_arithmetic=2.0 * values,
        step_bytes=4.0 * values,
        unique_bytes=sizes["B"] * heads * (4.0 * values + 2 * head_dim),
        useful_flops=2.0 * sizes["B"] * heads * values,
        product_type="fp16",
    )


_STEP = ("q", "cos", "sin", "positions", "mask", "key_cache", "value_cache")
_SPLIT = {"heads": 32, "head_dim": 128, "splits": 8}
_PARTIAL = ("B", "heads", "splits")

FAMILIES += (
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
        work=_decode_work,
        typical=({"B": 1, "TOTAL": 128}, {"B": 8, "TOTAL": 128}),
        variants=tuple((_types(_STEP, kind), _SPLIT) for kind in WIDE_TYPES),
        products=False,
    ),
    Family(
        name="qllama_combine",
        kernel="qllama_decode.qllama_combine",
        inputs=("partial", "stats"),
        sizes={"B": (("partial", 0),)},
        integers=(),
        outputs=(Output(name="out", type="@out", shape=("B", 1, "heads*head_dim")),),
        attributes={**_HEADS, "splits": "SPLITS"},
        typed_by="partial",
        choices=(Tiles(constants={}, warps=4, stages=1),),
        work=_combine_work,
        typical=({"B": 1}, {"B": 8}),
        variants=tuple(({"partial": "fp32", "stats": "fp32"}, {**_SPLIT, "out": kind}) for kind in WIDE_TYPES),
        grid_function="combine_grid",
        products=False,
    ),
)


def _cross_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    heads, head_dim = int(launch.constants["HEADS"]), int(launch.constants["D"])
    batch, rows, keys = sizes["B"], sizes.get("Q", 1), sizes["N"]
    splits = int(launch.constants["SPLITS"])
    element = TYPE_BYTES[launch.inputs[1].type]
    moved = 2 * batch * (rows + keys) * heads * head_dim * element
    pooled = "BM" not in launch.constants
    lane = attention_work(
        launch,
        batch=batch * splits,
        rows=rows,
        keys=-(-keys // splits),
        heads=heads,
        head_dim=head_dim,
        bytes_moved=moved,
        normed=False,
    )
    return (
        replace(lane, step_flops=0.0, step_arithmetic=6.0 * int(launch.constants["BN"]) * head_dim) if pooled else lane
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
        work=_cross_work,
        typical=({"B": 1, "N": 257}, {"B": 1, "N": 1025}),
        variants=tuple(
            (dict.fromkeys(inputs, kind), {"heads": 16, "head_dim": head_dim, "splits": splits})
            for head_dim in (200, 256)
            for kind in WIDE_TYPES
        ),
        products=False,
    )


FAMILIES += (
    Family(
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
        work=_cross_work,
        typical=({"B": 1, "Q": 96, "N": 257}, {"B": 1, "Q": 96, "N": 1025}),
        variants=tuple((dict.fromkeys(("q", "k", "v"), kind), _QLLAMA) for kind in WIDE_TYPES),
    ),
    _pool("attention_pool", (Output(name="out", type="@out:q", shape=("B", 1, "heads*head_dim")),), 1),
    _pool(
        "attention_pool_split",
        (
            Output(name="out", type="=fp32", shape=(*_PARTIAL, "head_dim")),
            Output(name="stats", type="=fp32", shape=(*_PARTIAL, 2)),
        ),
        8,
    ),
)

FAMILIES += (
    Family(
        name="combine",
        kernel="combine.combine",
        inputs=("partial", "stats"),
        sizes={"B": (("partial", 0),), "R": (("partial", 0),)},
        integers=(),
        outputs=(Output(name="out", type="@out", shape=("B", 1, "heads*head_dim")),),
        attributes={**_HEADS, "splits": "SPLITS"},
        fixed={"SCALE": 0},
        typed_by="partial",
        choices=(Tiles(constants={}, warps=4, stages=1),),
        work=_combine_work,
        typical=({"B": 1, "R": 1}, {"B": 8, "R": 8}),
        variants=tuple(
            ({"partial": "fp32", "stats": "fp32"}, {"heads": 16, "head_dim": 200, "splits": 8, "out": kind})
            for kind in WIDE_TYPES
        ),
        products=False,
    ),
)


def plugins() -> tuple[Plugin, ...]:
    """Return all families for `register_plugins`."""
    return tuple(family.plugin() for family in FAMILIES)
