"""The kernel before `vit_attention`: statistics of the norms of q and k, which span the whole width."""

import triton
import triton.language as tl

from internvl_edge.export.plugins.kernels.codes import scale_of


@triton.jit
def qk_norm(qkv, scales, statistics, WIDTH: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr):
    """Return 1 / rms of every row of q and k.

    Inputs:
        qkv: packed projection ``[B, N, 3*WIDTH]``, fp16, bf16, or 8-bit codes.
        scales: fp32, of which the first two are those of q and k; None where `qkv` has 16 bits.

    Output:
        statistics: fp32 ``[B, N, 2]``, ``1 / sqrt(mean(x^2) + EPS)`` of q and of k.

    Sums are fp32. Two thirds of `qkv` are read and 8 bytes a row written: the normed q and k, ``2*B*N*WIDTH`` numbers,
    never reach memory.

    Grid: B*N, 2.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = qkv + row * 3 * WIDTH + part * WIDTH
    squares = tl.zeros([BLOCK], tl.float32)
    for start in tl.static_range(0, WIDTH, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(first + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
        squares += x * x
    scale = scale_of(scales + part, 0, qkv.dtype.element_ty) if scales is not None else 1.0
    mean = tl.sum(squares) * (scale * scale / WIDTH)
    tl.store(statistics + row * 2 + part, 1.0 / tl.sqrt(mean + EPS))


def grid(B: int, N: int) -> tuple[int, int, int]:
    """Return the blocks of one launch."""
    return B * N, 2, 1
