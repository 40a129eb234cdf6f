"""Decode step of QLLaMA: one new row after a past, which is split over blocks; a second kernel combines them."""

import triton
import triton.language as tl

from internvl_edge.export.plugins.kernels.codes import LOG2E, encode, scale_of
from internvl_edge.export.plugins.kernels.qllama_attention import (
    K_SCALE,
    KEY_CACHE_SCALE,
    OUT_SCALE,
    Q_SCALE,
    VALUE_CACHE_SCALE,
    load_rotated,
    load_values,
)


@triton.jit
def qllama_decode(
    q, k, v, cos, sin, positions, mask, key_cache, value_cache, scales,
    TOTAL, CAPACITY,
    key_out, value_out, partial, stats,
    HEADS: tl.constexpr, D: tl.constexpr, COPY: tl.constexpr, SPLITS: tl.constexpr,
    BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Rotate q and k of one row, append k and v to the cache, attend to one part of the past.

    Inputs: those of `qllama_attention` with N = 1; key_cache and value_cache ``[B, HEADS, CAPACITY, D]`` are always
    there and hold ``TOTAL - 1`` rows (0 is allowed).

    Integers: TOTAL rows with the new one, CAPACITY rows of the cache.

    Outputs:
        key_out, value_out: the memory of the caches, of which row ``TOTAL - 1`` is written; or with COPY other memory,
            ``[B, HEADS, TOTAL, D]``, as the graph's present.
        partial: fp32 ``[B, HEADS, SPLITS, D]``, each split's mean of the values, for `combine`. With SPLITS = 1
            the result itself, ``[B, 1, HEADS*D]``, 16 bits or codes by its scale.
        stats: fp32 ``[B, HEADS, SPLITS, 2]``, each split's largest score (in powers of two) and sum of weights; None
            with SPLITS = 1.

    The cache's bytes bound this step: each of the BN lanes of a tile keeps a running softmax of its own, so that the
    loop holds nothing but loads and multiplications, and lanes meet once behind it. There is one query row, hence no
    tensor cores; weights and products are fp32, codes of an 8-bit cache are read as they are and their scale is
    applied behind.

    Grid: SPLITS, B*HEADS. Split 0 owns the new row: it appends and attends it; all read the past alone.

    Saved traffic: nothing but the past is read at length; present is not concatenated (``4*B*HEADS*TOTAL*D`` numbers
    without COPY), q, k and v are not moved between layouts.
    """
    split = tl.program_id(0)
    lane = tl.program_id(1)
    batch = (lane // HEADS).to(tl.int64)
    head = lane % HEADS
    past = TOTAL - 1
    WIDTH: tl.constexpr = HEADS * D
    ROW: tl.constexpr = 3 * WIDTH if k is None else WIDTH
    T: tl.constexpr = tl.float16 if q.dtype.element_ty.primitive_bitwidth == 8 else q.dtype.element_ty
    K_TYPE: tl.constexpr = key_cache.dtype.element_ty
    V_TYPE: tl.constexpr = value_cache.dtype.element_ty
    first = batch * ROW + head * D
    queries = q + first
    if k is None:
        keys = q + first + WIDTH
        values = q + first + 2 * WIDTH
    else:
        keys = k + first
        values = v + first

    half = tl.arange(0, D // 2)
    d = tl.arange(0, D)
    one = tl.arange(0, 1)
    q1, q2 = load_rotated(queries, ROW, one, 1, past, positions, batch, cos, sin, scales, Q_SCALE, D)
    key_scale = scale_of(scales, KEY_CACHE_SCALE, K_TYPE) * (D**-0.5 * LOG2E)
    q1 = q1.to(T).to(tl.float32) * key_scale
    q2 = q2.to(T).to(tl.float32) * key_scale

    held = lane.to(tl.int64) * CAPACITY * D
    kept = lane.to(tl.int64) * (TOTAL if COPY else CAPACITY) * D

    top = tl.full([BN], float("-inf"), tl.float32)
    total = tl.zeros([BN], tl.float32)
    attended = tl.zeros([BN, D], tl.float32)
    if split == 0:
        wide1, wide2 = load_rotated(keys, ROW, one, 1, past, positions, batch, cos, sin, scales, K_SCALE, D)
        own1 = encode(wide1, scales, KEY_CACHE_SCALE, K_TYPE)
        own2 = encode(wide2, scales, KEY_CACHE_SCALE, K_TYPE)
        own_x = load_values(values, ROW, one, 1, scales, V_TYPE, T, D)
        to = kept + past * D
        tl.store(key_out + to + half[None, :], own1)
        tl.store(key_out + to + D // 2 + half[None, :], own2)
        tl.store(value_out + to + d[None, :], own_x)
        score = tl.sum(own1.to(tl.float32) * q1, 1) + tl.sum(own2.to(tl.float32) * q2, 1)
        first_lane = tl.arange(0, BN) == 0
        if mask is not None:
            first_lane = first_lane & (tl.load(mask + batch * TOTAL + past) > 0)
        top = tl.where(first_lane, score, top)
        total = tl.where(first_lane, 1.0, total)
        attended = tl.where(first_lane[:, None], own_x.to(tl.float32), attended)

    share = tl.cdiv(tl.cdiv(past, SPLITS), BN) * BN
    for start in tl.range(split * share, tl.minimum(past, (split + 1) * share), BN, num_stages=STAGES):
        cols = start + tl.arange(0, BN)
        at = cols.to(tl.int64)[:, None] * D
        valid = cols[:, None] < past
        k1 = tl.load(key_cache + held + at + half[None, :], mask=valid, other=0.0)
        k2 = tl.load(key_cache + held + at + D // 2 + half[None, :], mask=valid, other=0.0)
        x = tl.load(value_cache + held + at + d[None, :], mask=valid, other=0.0)
        if COPY:
            tl.store(key_out + kept + at + half[None, :], k1, mask=valid)
            tl.store(key_out + kept + at + D // 2 + half[None, :], k2, mask=valid)
            tl.store(value_out + kept + at + d[None, :], x, mask=valid)
        seen = cols < past
        if mask is not None:
            seen = seen & (tl.load(mask + batch * TOTAL + cols, mask=seen, other=0) > 0)
        scores = tl.sum(k1.to(tl.float32) * q1, 1) + tl.sum(k2.to(tl.float32) * q2, 1)
        scores = tl.where(seen, scores, float("-inf"))
        new = tl.maximum(top, scores)
        finite = tl.where(new == float("-inf"), 0.0, new)
        weights = tl.exp2(scores - finite)
        shrink = tl.exp2(top - finite)
        attended = attended * shrink[:, None] + weights[:, None] * x.to(tl.float32)
        total = total * shrink + weights
        top = new

    largest = tl.max(top, 0)
    shrink = tl.exp2(top - tl.where(largest == float("-inf"), 0.0, largest))
    sum_weights = tl.sum(total * shrink, 0)
    mean = tl.sum(attended * shrink[:, None], 0) / tl.where(sum_weights > 0, sum_weights, 1.0)
    mean = mean * scale_of(scales, VALUE_CACHE_SCALE, V_TYPE)
    place = lane.to(tl.int64) * SPLITS + split
    if SPLITS == 1:
        tl.store(partial + place * D + d, encode(mean, scales, OUT_SCALE, partial.dtype.element_ty))
    else:
        tl.store(partial + place * D + d, mean)
        tl.store(stats + place * 2, largest)
        tl.store(stats + place * 2 + 1, sum_weights)


def grid(B: int, HEADS: int, SPLITS: int) -> tuple[int, int, int]:
    """Return the blocks of one launch of `qllama_decode`."""
    return SPLITS, B * HEADS, 1
