"""Cross-attention of QLLaMA's queries to the vision states (MODEL.md 3.4), without rotary embedding and mask."""

import triton
import triton.language as tl

from internvl_edge.export.plugins.kernels.codes import (
    FP8_MAX,
    K_SCALE,
    LOG2E,
    OUT_SCALE,
    Q_SCALE,
    V_SCALE,
    add_values,
    encode,
    scale_of,
)
from internvl_edge.export.plugins.kernels.tiles import softmax_start, softmax_weights
from internvl_edge.export.plugins.kernels.vit_attention import products


@triton.jit
def query_cross_attention(
    q, k, v, scales,
    Q, N,
    out, stats,
    HEADS: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Attend every query to every row of the picture, merge the heads.

    Inputs:
        q: projection of the queries ``[B, Q, HEADS*D]``; fp16, bf16, or 8-bit codes (int8, FP8 E4M3).
        k, v: projections of the vision states ``[B, N, HEADS*D]``, in q's type; with `v` None, `k` holds both side by
            side, ``[B, N, 2*HEADS*D]``.
        scales: fp32 ``[4]``, see `codes.SCALES`; None where no tensor has 8 bits.

    Integers: Q queries, N keys.

    Outputs:
        out: SPLITS 1: ``[B, Q, HEADS*D]``, 16 bits or codes. Else fp32 ``[B*Q, HEADS, SPLITS, D]`` for `combine`.
        stats: SPLITS 1: None. Else fp32 ``[B*Q, HEADS, SPLITS, 2]``.

    Few queries make few tiles: at batch 1 and 32 heads, two tiles of queries are 64 programs, half of what an H100 has
    room for at once. So the keys are split, and `combine` weighs the parts. A split without keys has no weight.

    Codes of q and k multiply on 8-bit units; the rest as in `vit_attention`.

    Saved traffic, in numbers: ``2*B*(Q + 2*N)*HEADS*D`` of heads brought apart, ``2*B*Q*HEADS*D`` of the result merged,
    and ``2*B*HEADS*Q*N`` of scores. Left are q, k, v once for each tile of queries, and the result.

    Grid: tiles of BM queries, B*HEADS, SPLITS.
    """
    batch = (tl.program_id(1) // HEADS).to(tl.int64)
    head = tl.program_id(1) % HEADS
    split = tl.program_id(2)
    WIDTH: tl.constexpr = HEADS * D
    ROW: tl.constexpr = 2 * WIDTH if v is None else WIDTH
    KIND: tl.constexpr = q.dtype.element_ty
    T: tl.constexpr = tl.float16 if KIND.primitive_bitwidth == 8 else KIND
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    keys = k + batch * N * ROW + head * D
    if v is None:
        values = keys + WIDTH
    else:
        values = v + batch * N * ROW + head * D
    mine = q + batch * Q * WIDTH + rows[:, None] * WIDTH + head * D + d[None, :]
    x = tl.load(mine, mask=rows[:, None] < Q, other=0.0)
    factor = scale_of(scales, Q_SCALE, KIND) * scale_of(scales, K_SCALE, KIND) * (D**-0.5 * LOG2E)

    top, total, attended = softmax_start(BM, D)
    share = tl.cdiv(tl.cdiv(N, SPLITS), BN) * BN
    first = split * share
    last = tl.minimum(N, first + share)
    whole = first + tl.maximum(last - first, 0) // BN * BN
    for start in tl.range(first, whole, BN):
        cols = start + tl.arange(0, BN)
        at = cols[:, None] * ROW + d[None, :]
        scores = products(x, tl.load(keys + at)) * factor
        weights, top, total, shrink = softmax_weights(scores, top, total)
        attended = add_values(weights, tl.load(values + at), attended * shrink[:, None], T)
    for start in tl.range(whole, last, BN):
        cols = start + tl.arange(0, BN)
        at = cols[:, None] * ROW + d[None, :]
        inside = cols < last
        scores = products(x, tl.load(keys + at, mask=inside[:, None], other=0.0)) * factor
        scores = tl.where(inside[None, :], scores, float("-inf"))
        weights, top, total, shrink = softmax_weights(scores, top, total)
        y = tl.load(values + at, mask=inside[:, None], other=0.0)
        attended = add_values(weights, y, attended * shrink[:, None], T)

    attended *= (scale_of(scales, V_SCALE, KIND) / tl.where(total > 0, total, 1.0))[:, None]
    if KIND == tl.float8e4nv:
        attended *= 1 / FP8_MAX
    row = batch * Q + rows
    if SPLITS == 1:
        to = out + row[:, None] * WIDTH + head * D + d[None, :]
        tl.store(to, encode(attended, scales, OUT_SCALE, out.dtype.element_ty), mask=rows[:, None] < Q)
    else:
        place = (row * HEADS + head) * SPLITS + split
        tl.store(out + place[:, None] * D + d[None, :], attended, mask=rows[:, None] < Q)
        tl.store(stats + place * 2, top, mask=rows < Q)
        tl.store(stats + place * 2 + 1, total, mask=rows < Q)


def grid(B: int, Q: int, HEADS: int, BM: int, SPLITS: int) -> tuple[int, int, int]:
    """Return the blocks of one launch."""
    return -(-Q // BM), B * HEADS, SPLITS
