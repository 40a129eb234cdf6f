"""Self-attention of InternViT on the packed projection, including its norms of q and k (MODEL.md 3.1)."""

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
    widen,
)
from internvl_edge.export.plugins.kernels.tiles import softmax_start, softmax_weights


@triton.jit
def vit_attention(
    qkv, statistics, q_gain, k_gain, scales,
    N,
    out,
    HEADS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Norm q and k, attend every row to every row, merge the heads.

    Inputs:
        qkv: packed projection ``[B, N, 3*HEADS*D]`` in the order q, k, v: fp16, bf16, or 8-bit codes (int8, FP8 E4M3).
        statistics: fp32 ``[B, N, 2]`` of `qk_norm`; None: no norm, as in InternViT-300M.
        q_gain, k_gain: gains of the norms, ``[HEADS*D]``; None with `statistics`.
        scales: fp32 ``[4]``, see `codes.SCALES`; None where no tensor has 8 bits.

    Integer: N rows.

    Output:
        out: ``[B, N, HEADS*D]``, ready for proj: 16 bits, or codes by its scale.

    Arithmetic: q takes its norm, its gain and k's gain once, in fp32, and is rounded to T (qkv's type; fp16 for codes);
    keys enter the product as they lie in memory, and their statistics, the scales and 1/sqrt(D) multiply the fp32
    scores of their column. So no key is touched by more than the product, and one rounding is less than in the graph.
    Without norms, codes of q and k multiply on 8-bit units. Softmax is fp32; weights are rounded to T, for FP8 values
    to FP8 as codes of 1/448; int8 values widen to fp16 without loss.

    Saved traffic, in numbers of ``B*N*HEADS*D``: the normed q and k are not written (2; `qk_norm` reads what the norms
    would), q, k and v not brought apart (6), the result not merged (2), and ``2*B*HEADS*N*N`` of scores. Left are q, k,
    v and the result, and 16 bytes a row of statistics, written and read.

    Grid: tiles of BM rows, B*HEADS.
    """
    batch = (tl.program_id(1) // HEADS).to(tl.int64)
    head = tl.program_id(1) % HEADS
    WIDTH: tl.constexpr = HEADS * D
    ROW: tl.constexpr = 3 * WIDTH
    KIND: tl.constexpr = qkv.dtype.element_ty
    T: tl.constexpr = tl.float16 if KIND.primitive_bitwidth == 8 else KIND
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    queries = qkv + batch * N * ROW + head * D
    keys = queries + WIDTH
    values = queries + 2 * WIDTH

    factor = scale_of(scales, K_SCALE, KIND) * (D**-0.5 * LOG2E)
    q = tl.load(queries + rows[:, None] * ROW + d[None, :], mask=rows[:, None] < N, other=0.0)
    if statistics is not None:
        statistics += batch * N * 2
        inverse = tl.load(statistics + rows * 2, mask=rows < N, other=0.0) * scale_of(scales, Q_SCALE, KIND)
        gain = tl.load(q_gain + head * D + d).to(tl.float32) * tl.load(k_gain + head * D + d).to(tl.float32)
        q = (q.to(tl.float32) * inverse[:, None] * gain[None, :]).to(T)
    else:
        factor *= scale_of(scales, Q_SCALE, KIND)

    top, total, attended = softmax_start(BM, D)
    whole = N // BN * BN
    for start in tl.range(0, whole, BN):
        cols = start + tl.arange(0, BN)
        at = cols[:, None] * ROW + d[None, :]
        scores = products(q, tl.load(keys + at))
        if statistics is not None:
            scores *= (tl.load(statistics + cols * 2 + 1) * factor)[None, :]
        else:
            scores *= factor
        weights, top, total, shrink = softmax_weights(scores, top, total)
        attended = add_values(weights, tl.load(values + at), attended * shrink[:, None], T)
    for start in tl.range(whole, N, BN):  # at most once; as an `if` it costs so many registers that it spills
        cols = start + tl.arange(0, BN)
        at = cols[:, None] * ROW + d[None, :]
        inside = cols < N
        scores = products(q, tl.load(keys + at, mask=inside[:, None], other=0.0))
        if statistics is not None:
            scores *= (tl.load(statistics + cols * 2 + 1, mask=inside, other=0.0) * factor)[None, :]
        else:
            scores *= factor
        scores = tl.where(inside[None, :], scores, float("-inf"))
        weights, top, total, shrink = softmax_weights(scores, top, total)
        x = tl.load(values + at, mask=inside[:, None], other=0.0)
        attended = add_values(weights, x, attended * shrink[:, None], T)

    attended *= (scale_of(scales, V_SCALE, KIND) / total)[:, None]
    if KIND == tl.float8e4nv:
        attended *= 1 / FP8_MAX
    to = out + batch * N * WIDTH + rows[:, None] * WIDTH + head * D + d[None, :]
    tl.store(to, encode(attended, scales, OUT_SCALE, out.dtype.element_ty), mask=rows[:, None] < N)


@triton.jit
def products(q, k):
    """Return q k^T ``[M, N]`` fp32; codes of both on 8-bit units, codes of k alone widened to q's type."""
    if q.dtype == tl.int8:
        scores = tl.dot(q, tl.trans(k), out_dtype=tl.int32).to(tl.float32)
    else:
        scores = tl.dot(q, tl.trans(widen(k, q.dtype)))
    return scores


def grid(B: int, N: int, HEADS: int, BM: int) -> tuple[int, int, int]:
    """Return the blocks of one launch."""
    return -(-N // BM), B * HEADS, 1
