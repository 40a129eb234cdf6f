"""Count the work of a launch of each kernel: operations and bytes of one iteration and of the whole."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from internvl_edge.export.plugins.launches import KERNEL_TYPES, TYPE_BYTES, Launch
from internvl_edge.export.plugins.tiling.tiles_model import Work
from internvl_edge.runtime.numbers import formats
from internvl_edge.runtime.numbers.tensor_types import BFLOAT16, FLOAT16

WIDE_TYPES = (FLOAT16.short, BFLOAT16.short)
CODE_TYPES = tuple(name for name, row in KERNEL_TYPES.items() if row in formats.CODE_TYPES)

_CODE_OPERATIONS = 5.5
"""Operations to convert one code of keys or values; fitted with the constants of `tiles_model`."""


def attention_work(
    launch: Launch, *, batch: int, rows: int, keys: float, heads: int, head_dim: int, bytes_moved: float, normed: bool
) -> Work:
    """Return the work of attention with tiles of BM rows and BN keys.

    In each iteration, a score takes six operations (scale, mask, maximum, subtraction, sum, conversion), a value of the
    accumulator two for rescaling, and a value of a normed or rotated key four. An 8-bit code of keys and values takes
    `_CODE_OPERATIONS`, for its conversion or the transposition for 8-bit products.
    """
    tile_rows, tile_keys = int(launch.constants.get("BM", 1)), int(launch.constants["BN"])
    padded = 1 << (head_dim - 1).bit_length()
    kinds = {tensor.type for tensor in launch.inputs}
    kind = next((kind for kind in (*WIDE_TYPES, *CODE_TYPES)[::-1] if kind in kinds), WIDE_TYPES[0])
    width = TYPE_BYTES[kind]
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


def qllama_work(causal: bool) -> Callable[[Launch, Mapping[str, int]], Work]:
    """Return the function for the work of QLLaMA's self-attention; causal rows see half of the new keys on average."""

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


def vit_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    """Return the work of a tower's attention."""
    heads, head_dim = int(launch.constants["HEADS"]), int(launch.constants["D"])
    rows, batch = sizes["N"], sizes["B"]
    read, written = TYPE_BYTES[launch.inputs[0].type], TYPE_BYTES[launch.outputs[0].type]
    moved = batch * rows * heads * head_dim * (3 * read + written)
    return attention_work(
        launch, batch=batch, rows=rows, keys=rows, heads=heads, head_dim=head_dim, bytes_moved=moved, normed=False
    )


def rows_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    """Return the work of the kernel for the statistics of the norms of q and k."""
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


def decode_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    """Return the work of one row with a cache, split over its keys and without tensor cores."""
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
    return _without_tensor_cores(launch, lane)


def combine_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    """Return the work of combining the splits of an attention."""
    heads, head_dim, splits = (int(launch.constants[name]) for name in ("HEADS", "D", "SPLITS"))
    values = head_dim * splits
    return Work(
        blocks=sizes["R"] * heads,
        steps=1,
        step_flops=0.0,
        step_exponentials=splits,
        step_arithmetic=2.0 * values,
        step_bytes=4.0 * values,
        unique_bytes=sizes["R"] * heads * (4.0 * values + 2 * head_dim),
        useful_flops=2.0 * sizes["R"] * heads * values,
        product_type="fp16",
    )


def cross_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    """Return the work of packed queries with keys and values of other rows."""
    heads, head_dim, splits = (int(launch.constants[name]) for name in ("HEADS", "D", "SPLITS"))
    batch, rows, keys = sizes["B"], sizes.get("Q", 1), sizes["N"]
    element = TYPE_BYTES[launch.inputs[1].type]
    return attention_work(
        launch,
        batch=batch * splits,
        rows=rows,
        keys=-(-keys // splits),
        heads=heads,
        head_dim=head_dim,
        bytes_moved=2 * batch * (rows + keys) * heads * head_dim * element,
        normed=False,
    )


def pool_work(launch: Launch, sizes: Mapping[str, int]) -> Work:
    """Return the work of one query with keys and values of other rows."""
    return _without_tensor_cores(launch, cross_work(launch, sizes))


def _without_tensor_cores(launch: Launch, work: Work) -> Work:
    """Return `work` without tensor cores: six fp32 operations for every value of the keys in an iteration."""
    numbers = int(launch.constants["BN"]) * int(launch.constants["D"])
    return replace(work, step_flops=0.0, step_arithmetic=6.0 * numbers)
