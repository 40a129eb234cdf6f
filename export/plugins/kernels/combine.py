"""The second kernel of an attention that is split over its keys: it combines the splits."""

import triton
import triton.language as tl

from internvl_edge.export.plugins.kernels.codes import encode


@triton.jit
def combine(
    partial, stats, scales,
    out,
    HEADS: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Weigh the splits of `qllama_decode`, `query_cross_attention` or `attention_pool` together.

    Inputs:
        partial: fp32 ``[R, HEADS, SPLITS, D]``, what each split attended, for R rows of queries.
        stats: fp32 ``[R, HEADS, SPLITS, 2]``, each split's largest score in powers of two, and its sum of weights.
        scales: fp32, of which number SCALE is the result's; None for 16 bits.

    Output:
        out: ``[R, HEADS*D]``, 16 bits or codes.

    SPLITS is a power of two. A row that saw no key is 0. Grid: R*HEADS.
    """
    lane = tl.program_id(0).to(tl.int64)
    splits = lane * SPLITS + tl.arange(0, SPLITS)
    PADDED: tl.constexpr = triton.next_power_of_2(D)
    d = tl.arange(0, PADDED)
    top = tl.load(stats + splits * 2)
    largest = tl.max(top, 0)
    weights = tl.load(stats + splits * 2 + 1) * tl.exp2(top - tl.where(largest == float("-inf"), 0.0, largest))
    total = tl.sum(weights, 0)
    parts = tl.load(partial + splits[:, None] * D + d[None, :], mask=d[None, :] < D, other=0.0)
    mean = tl.sum(parts * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + lane * D + d, encode(mean, scales, SCALE, out.dtype.element_ty), mask=d < D)


def grid(R: int, HEADS: int) -> tuple[int, int, int]:
    """Return the blocks of one launch."""
    return R * HEADS, 1, 1
