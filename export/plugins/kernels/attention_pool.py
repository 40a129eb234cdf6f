"""Attention pooling by one query over all tokens (MODEL.md 3.2); head dims are 200 (InternViT) and 256 (queries)."""

import triton
import triton.language as tl

from internvl_edge.export.plugins.kernels.codes import (
    K_SCALE,
    LOG2E,
    OUT_SCALE,
    Q_SCALE,
    V_SCALE,
    encode,
    scale_of,
)


@triton.jit
def attention_pool(
    q, k, v, scales,
    N,
    out, stats,
    HEADS: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Attend one query to N rows, heads side by side.

    Inputs:
        q: projection of the normed mean ``[B, 1, HEADS*D]``; fp16, bf16, or 8-bit codes (int8, FP8 E4M3).
        k, v: projections of the normed tokens ``[B, N, HEADS*D]``, of a type of their own.
        scales: fp32 ``[4]``, see `codes.SCALES`; None where no tensor has 8 bits.

    Integer: N rows.

    Outputs:
        out: SPLITS 1: ``[B, 1, HEADS*D]``, 16 bits or codes. Else fp32 ``[B, HEADS, SPLITS, D]`` for `combine`.
        stats: SPLITS 1: None. Else fp32 ``[B, HEADS, SPLITS, 2]``.

    One row makes no use of tensor cores; time is that of reading k and v once. So all is fp32 on plain units, each of
    BN lanes of keys keeps a softmax of its own until the end, and the keys are split to occupy the device. A D that is
    no power of two is padded by a mask.

    Not fused are the mean and the three norms in front: a norm's statistics need all of the width, a program sees a
    head. Saved traffic, in numbers: ``4*B*N*HEADS*D`` of heads brought apart, ``4*B*HEADS*N`` of scores and weights.

    Grid: SPLITS, B*HEADS.
    """
    split = tl.program_id(0)
    lane = tl.program_id(1)
    batch = (lane // HEADS).to(tl.int64)
    head = lane % HEADS
    WIDTH: tl.constexpr = HEADS * D
    PADDED: tl.constexpr = triton.next_power_of_2(D)
    d = tl.arange(0, PADDED)
    real = d < D
    factor = scale_of(scales, K_SCALE, k.dtype.element_ty) * (D**-0.5 * LOG2E)
    factor *= scale_of(scales, Q_SCALE, q.dtype.element_ty)
    query = tl.load(q + batch * WIDTH + head * D + d, mask=real, other=0.0).to(tl.float32) * factor
    keys = k + batch * N * WIDTH + head * D
    values = v + batch * N * WIDTH + head * D

    top = tl.full([BN], float("-inf"), tl.float32)
    total = tl.zeros([BN], tl.float32)
    attended = tl.zeros([BN, PADDED], tl.float32)
    share = tl.cdiv(tl.cdiv(N, SPLITS), BN) * BN
    for start in tl.range(split * share, tl.minimum(N, (split + 1) * share), BN):
        cols = start + tl.arange(0, BN)
        at = cols[:, None] * WIDTH + d[None, :]
        inside = (cols[:, None] < N) & real[None, :]
        x = tl.load(keys + at, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
        scores = tl.where(cols < N, tl.sum(x * query[None, :], 1), float("-inf"))
        new = tl.maximum(top, scores)
        finite = tl.where(new == float("-inf"), 0.0, new)
        weights = tl.exp2(scores - finite)
        shrink = tl.exp2(top - finite)
        attended = attended * shrink[:, None] + weights[:, None] * y
        total = total * shrink + weights
        top = new

    largest = tl.max(top, 0)
    shrink = tl.exp2(top - tl.where(largest == float("-inf"), 0.0, largest))
    sum_weights = tl.sum(total * shrink, 0)
    mean = tl.sum(attended * shrink[:, None], 0) / tl.where(sum_weights > 0, sum_weights, 1.0)
    mean *= scale_of(scales, V_SCALE, v.dtype.element_ty)
    place = lane.to(tl.int64) * SPLITS + split
    if SPLITS == 1:
        tl.store(out + place * D + d, encode(mean, scales, OUT_SCALE, out.dtype.element_ty), mask=real)
    else:
        tl.store(out + place * D + d, mean, mask=real)
        tl.store(stats + place * 2, largest)
        tl.store(stats + place * 2 + 1, sum_weights)


def grid(B: int, HEADS: int, SPLITS: int) -> tuple[int, int, int]:
    """Return the blocks of one launch."""
    return SPLITS, B * HEADS, 1
