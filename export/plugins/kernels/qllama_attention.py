"""Self-attention of QLLaMA for several rows: queries, a text, or a prompt after a past (MODEL.md 3.4 to 3.9).

`load_rotated`, `load_values`, `encode` and the scales are shared with `qllama_decode`, so that a row reaches the cache
with the same bits from both kernels.
"""

import triton
import triton.language as tl

from internvl_edge.export.plugins.kernels.codes import FP8_MAX, LOG2E, add_values, encode, scale_of, widen
from internvl_edge.export.plugins.kernels.tiles import softmax_start, softmax_weights

SCALES = ("q", "k", "v", "key_cache", "value_cache", "out")
"""Tensors of the six fp32 numbers in `scales`; those of 16-bit tensors are not read."""

Q_SCALE = tl.constexpr(0)
K_SCALE = tl.constexpr(1)
V_SCALE = tl.constexpr(2)
KEY_CACHE_SCALE = tl.constexpr(3)
VALUE_CACHE_SCALE = tl.constexpr(4)
OUT_SCALE = tl.constexpr(5)


@triton.jit
def qllama_attention(
    q, k, v, cos, sin, positions, mask, key_cache, value_cache, scales,
    N, TOTAL, CAPACITY,
    key_out, value_out, out,
    HEADS: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, COPY: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Rotate q and k, append k and v to the cache, attend, merge the heads.

    Inputs:
        q, k, v: outputs of the projections, ``[B, N, HEADS*D]``, fp16, bf16, or 8-bit codes (int8, FP8 E4M3). With
            `k` and `v` None, `q` is one packed projection ``[B, N, 3*HEADS*D]``, in the order q, k, v.
        cos, sin: the rotary tables ``[max_positions, D/2]``, any float type, halves layout.
        positions: ``[B, N]`` int64 or int32, each below max_positions (nothing here can refuse others), as the
            decoder's position_ids; None: row i stands at ``TOTAL - N + i`` (text, queries, matching).
        mask: ``[B, TOTAL]`` integers, keys above 0 count: the decoder's attention_mask, a text's input_ids, or both in
            one row for matching; None: all count.
        key_cache, value_cache: ``[B, HEADS, CAPACITY, D]``, 16 bits or 8-bit codes, of which the first ``TOTAL - N``
            rows hold the past, keys after rotary; None: no past, and TOTAL is N. Caches need the outputs key_out and
            value_out, in their type.
        scales: fp32 ``[6]``, see `SCALES`; None where no tensor has 8 bits.

    Integers: N new rows, TOTAL rows with the past, CAPACITY rows of the cache.

    Outputs:
        key_out, value_out: COPY False: ``[B, HEADS, CAPACITY, D]``, the very memory of the caches; the new rows go to
            ``TOTAL - N .. TOTAL - 1`` and nothing else is touched. COPY True: other memory, ``[B, HEADS, TOTAL, D]``,
            to which the past is copied as well, as the graph's present. None: nothing is kept.
        out: ``[B, N, HEADS*D]``, ready for o_proj: 16 bits, or codes by its scale.

    CAUSAL lets row i see the past and new rows up to its own. A row that may see no key gives 0, where MODEL.md has
    finite values without meaning.

    Arithmetic: rotary in fp32, rounded to T (q's type; fp16 where q has 8 bits); products accumulate in fp32; softmax
    in fp32. Where the cache has 8 bits, new rows are coded first and attended as the decode step will read them. Codes
    enter the products as they are, widened to T without loss, and their scales multiply the sums; the exception is FP8
    values: there the weights are rounded to FP8 as codes of 1/448 and the product runs on FP8 tensor cores. A v of the
    cache's 8-bit type has the cache's scale: its codes are stored as they come.

    Grid: tiles of BM rows, B*HEADS. Programs read the past from the cache and new rows from k and v; a row is appended
    by the one program that owns it, so none reads what another writes.

    Saved traffic, in numbers of ``B*N*HEADS*D``: split and rotary write and read q and k (8), v and the result change
    their layout (4), present is concatenated (2 per cached row and tensor without COPY), and scores never reach
    memory (``2*B*HEADS*N*TOTAL`` and the mask's bias). Left are q, k, v, the past, the new rows and the result.
    """
    tile = tl.program_id(0)
    batch = (tl.program_id(1) // HEADS).to(tl.int64)
    head = tl.program_id(1) % HEADS
    past = TOTAL - N
    WIDTH: tl.constexpr = HEADS * D
    ROW: tl.constexpr = 3 * WIDTH if k is None else WIDTH
    T: tl.constexpr = tl.float16 if q.dtype.element_ty.primitive_bitwidth == 8 else q.dtype.element_ty
    first = batch * N * ROW + head * D
    queries = q + first
    if k is None:
        keys = q + first + WIDTH
        values = q + first + 2 * WIDTH
    else:
        keys = k + first
        values = v + first
    K_TYPE: tl.constexpr = T if key_out is None else key_out.dtype.element_ty
    V_TYPE: tl.constexpr = values.dtype.element_ty if value_out is None else value_out.dtype.element_ty
    V_INDEX: tl.constexpr = V_SCALE if value_out is None else VALUE_CACHE_SCALE

    rows = tile * BM + tl.arange(0, BM)
    half = tl.arange(0, D // 2)
    d = tl.arange(0, D)
    q1, q2 = load_rotated(queries, ROW, rows, N, past, positions, batch * N, cos, sin, scales, Q_SCALE, D)
    q1 = q1.to(T)
    q2 = q2.to(T)
    key_scale = scale_of(scales, KEY_CACHE_SCALE, K_TYPE) * (D**-0.5 * LOG2E)

    if key_out is not None:
        kept_first = (batch * HEADS + head) * (TOTAL if COPY else CAPACITY) * D
        own1, own2 = load_rotated(keys, ROW, rows, N, past, positions, batch * N, cos, sin, scales, K_SCALE, D)
        to = kept_first + (past + rows).to(tl.int64)[:, None] * D
        inside = rows[:, None] < N
        tl.store(key_out + to + half[None, :], encode(own1, scales, KEY_CACHE_SCALE, K_TYPE), mask=inside)
        tl.store(key_out + to + D // 2 + half[None, :], encode(own2, scales, KEY_CACHE_SCALE, K_TYPE), mask=inside)
        own = load_values(values, ROW, rows, N, scales, V_TYPE, T, D)
        tl.store(value_out + to + d[None, :], own, mask=inside)

    top, total, attended = softmax_start(BM, D)

    if key_cache is not None:
        held_first = (batch * HEADS + head) * CAPACITY * D
        if COPY:
            copied = tl.where(tile == 0, past, 0) * D
            copy_rows(key_cache + held_first, key_out + kept_first, copied, BN * D)
            copy_rows(value_cache + held_first, value_out + kept_first, copied, BN * D)
        for start in tl.range(0, past, BN):
            cols = start + tl.arange(0, BN)
            at = cols.to(tl.int64)[:, None] * D
            valid = cols[:, None] < past
            k1 = tl.load(key_cache + held_first + at + half[None, :], mask=valid, other=0.0)
            k2 = tl.load(key_cache + held_first + at + D // 2 + half[None, :], mask=valid, other=0.0)
            x = tl.load(value_cache + held_first + at + d[None, :], mask=valid, other=0.0)
            scores = tl.dot(q1, tl.trans(widen(k1, T)))
            scores = tl.dot(q2, tl.trans(widen(k2, T)), scores) * key_scale
            seen = cols < past
            if mask is not None:
                seen = seen & (tl.load(mask + batch * TOTAL + cols, mask=seen, other=0) > 0)
            scores = tl.where(seen[None, :], scores, float("-inf"))
            weights, top, total, shrink = softmax_weights(scores, top, total)
            attended = add_values(weights, x, attended * shrink[:, None], T)

    end = N
    if CAUSAL:
        end = tl.minimum(N, (tile + 1) * BM)
    for start in tl.range(0, end, BN):
        cols = start + tl.arange(0, BN)
        wide1, wide2 = load_rotated(keys, ROW, cols, N, past, positions, batch * N, cos, sin, scales, K_SCALE, D)
        new1 = widen(encode(wide1, scales, KEY_CACHE_SCALE, K_TYPE), T)
        new2 = widen(encode(wide2, scales, KEY_CACHE_SCALE, K_TYPE), T)
        own_x = load_values(values, ROW, cols, N, scales, V_TYPE, T, D)
        scores = tl.dot(q1, tl.trans(new1))
        scores = tl.dot(q2, tl.trans(new2), scores) * key_scale
        seen = cols < N
        if mask is not None:
            seen = seen & (tl.load(mask + batch * TOTAL + past + cols, mask=seen, other=0) > 0)
        if CAUSAL:
            scores = tl.where(seen[None, :] & (cols[None, :] <= rows[:, None]), scores, float("-inf"))
        else:
            scores = tl.where(seen[None, :], scores, float("-inf"))
        weights, top, total, shrink = softmax_weights(scores, top, total)
        attended = add_values(weights, own_x, attended * shrink[:, None], T)

    attended = attended * (scale_of(scales, V_INDEX, V_TYPE) / tl.where(total > 0, total, 1.0))[:, None]
    if V_TYPE == tl.float8e4nv:
        attended = attended * (1 / FP8_MAX)
    to = batch * N * WIDTH + rows.to(tl.int64)[:, None] * WIDTH + head * D + d[None, :]
    tl.store(out + to, encode(attended, scales, OUT_SCALE, out.dtype.element_ty), mask=rows[:, None] < N)


def grid(B: int, N: int, HEADS: int, BM: int) -> tuple[int, int, int]:
    """Return the blocks of one launch of `qllama_attention`."""
    return -(-N // BM), B * HEADS, 1


@triton.jit
def copy_rows(source, target, count, BLOCK: tl.constexpr):
    """Copy `count` numbers.

    Apart from the loop that attends them: stored from there, with two stages of loads, Triton 3.6 and 3.8 let a Hopper
    overwrite the keys while its tensor cores still read them.
    """
    for start in tl.range(0, count, BLOCK, num_stages=1):
        at = start + tl.arange(0, BLOCK)
        tl.store(target + at, tl.load(source + at, mask=at < count, other=0.0), mask=at < count)


@triton.jit
def load_rotated(
    x, ROW: tl.constexpr, rows, N, past, positions, first, cos, sin, scales, SCALE: tl.constexpr, D: tl.constexpr
):
    """Return the two halves ``[rows, D/2]`` fp32 of one head's rows after rotary.

    That is x cos + rot(x) sin with rot(a, b) = (-b, a). `x` points at row 0 of the head, rows are ROW numbers apart;
    rows from N on are 0. `positions` as in the kernel, of which `first` stand before this batch entry.
    """
    half = tl.arange(0, D // 2)
    valid = rows < N
    if positions is None:
        place = past + rows
    else:
        place = tl.load(positions + first + rows, mask=valid, other=0)
    table = place[:, None] * (D // 2) + half[None, :]
    at = rows.to(tl.int64)[:, None] * ROW + half[None, :]
    valid = valid[:, None]
    scale = scale_of(scales, SCALE, x.dtype.element_ty)
    a = tl.load(x + at, mask=valid, other=0.0).to(tl.float32) * scale
    b = tl.load(x + at + D // 2, mask=valid, other=0.0).to(tl.float32) * scale
    c = tl.load(cos + table, mask=valid, other=0.0).to(tl.float32)
    s = tl.load(sin + table, mask=valid, other=0.0).to(tl.float32)
    return a * c - b * s, b * c + a * s


@triton.jit
def load_values(x, ROW: tl.constexpr, rows, N, scales, TYPE: tl.constexpr, T: tl.constexpr, D: tl.constexpr):
    """Return one head's rows ``[rows, D]`` of v as the cache holds them: its codes, or rounded to its 16 bits."""
    at = rows.to(tl.int64)[:, None] * ROW + tl.arange(0, D)[None, :]
    found = tl.load(x + at, mask=rows[:, None] < N, other=0.0)
    if x.dtype.element_ty != TYPE:
        wide = found.to(tl.float32) * scale_of(scales, V_SCALE, x.dtype.element_ty)
        found = encode(wide, scales, VALUE_CACHE_SCALE, TYPE)
    return found
