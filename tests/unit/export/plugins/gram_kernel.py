# ruff: noqa: N803
"""A kernel small enough to compile in a test: ``x @ x.T + shift`` of every picture in a batch."""

import triton
import triton.language as tl

from internvl_edge.export.plugins.launches import Launch, Tensor
from internvl_edge.export.plugins.tensorrt_plugins import Plugin


@triton.jit
def gram(x, shift, N, out, copy, D: tl.constexpr, BM: tl.constexpr):
    """Take ``x [B, N, D]``, ``shift [B, N]`` or None; write ``out [B, N, N]``, and x to `copy`, the memory of x."""
    rows, columns = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BM + tl.arange(0, BM)
    batch, d = tl.program_id(2).to(tl.int64), tl.arange(0, D)
    first = x + batch * N * D
    left = tl.load(first + rows[:, None] * D + d[None, :], mask=rows[:, None] < N, other=0.0)
    right = tl.load(first + columns[:, None] * D + d[None, :], mask=columns[:, None] < N, other=0.0)
    product = tl.dot(left, tl.trans(right))
    if shift is not None:
        product += tl.load(shift + batch * N + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    inside = (rows[:, None] < N) & (columns[None, :] < N)
    tl.store(out + batch * N * N + rows[:, None] * N + columns[None, :], product.to(out.dtype.element_ty), mask=inside)
    tl.store(copy + batch * N * D + rows[:, None] * D + d[None, :], left, mask=rows[:, None] < N)


def grid(B, N, BM):
    """Return tiles of rows, tiles of columns, batch."""
    return -(-N // BM), triton.cdiv(N, BM), B


def grid_that_branches(B, N, BM):
    """Return a grid that no plan can hold."""
    return max(N // BM, 1), 1, B


def gram_launch(kind: str = "fp16", *, width: int = 64, tile: int = 64, shift: bool = True) -> Launch:
    """Return one variant."""
    shifts = (Tensor(name="shift", type="fp32"),) if shift else ()
    return Launch(
        plugin="gram",
        kernel="tests.unit.export.plugins.gram_kernel.gram",
        inputs=(Tensor(name="x", type=kind), *shifts),
        sizes={"B": (("x", 0),), "N": (("x", 1),)},
        integers=("N",),
        outputs=(
            Tensor(name="out", type=kind, shape=("B", "N", "N")),
            Tensor(name="copy", type=kind, alias="x"),
        ),
        constants={"D": width, "BM": tile},
    )


GRAM = Plugin(
    name="gram",
    inputs=("x", "shift"),
    outputs=("out", "copy"),
    launch=lambda types, attributes, sm: (
        [gram_launch(types["x"], width=int(attributes["width"]), tile=tile) for tile in (64, 32)]
        if types["x"] in ("fp16", "bf16") and sm >= 80
        else []
    ),
)
