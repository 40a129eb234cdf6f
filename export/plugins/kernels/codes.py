"""Functions on 8-bit codes and 16-bit numbers that all attention kernels share."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
"""log2(e): scores are multiplied by it, since the kernels compute softmax by powers of two."""

FP8_MAX = tl.constexpr(448.0)
"""Largest value of FP8 E4M3. Softmax weights are at most 1, so FP8 holds them times 448."""

_HALF_EVEN = tl.constexpr(12582912.0)
"""1.5 * 2^23: adding it leaves fp32 no bits behind the point, and the sum is rounded half to even."""

SCALES = ("q", "k", "v", "out")
"""Tensors of the four fp32 numbers in `scales`; those of 16-bit tensors are not read. QLLaMA's kernels have six."""

Q_SCALE = tl.constexpr(0)
K_SCALE = tl.constexpr(1)
V_SCALE = tl.constexpr(2)
OUT_SCALE = tl.constexpr(3)


@triton.jit
def scale_of(scales, INDEX: tl.constexpr, TYPE: tl.constexpr):
    """Return the scale of codes of TYPE in fp32; 1 for 16-bit types."""
    if TYPE.primitive_bitwidth == 8:
        scale = tl.load(scales + INDEX)
    else:
        scale = 1.0
    return scale


@triton.jit
def encode(x, scales, INDEX: tl.constexpr, TYPE: tl.constexpr):
    """Return `x` fp32 in TYPE: 8-bit types as codes of their scale, half to even, saturating."""
    if TYPE.primitive_bitwidth == 8:
        x = tl.div_rn(x, tl.load(scales + INDEX))
        if TYPE == tl.int8:
            x = (tl.clamp(x, -128.0, 127.0) + _HALF_EVEN) - _HALF_EVEN
        else:
            x = tl.clamp(x, -FP8_MAX, FP8_MAX)
    return x.to(TYPE)


@triton.jit
def widen(codes, T: tl.constexpr):
    """Return 8-bit codes converted to the 16-bit type T, which is exact; values of type T are unchanged."""
    if codes.dtype != T:
        codes = codes.to(tl.float32).to(T)
    return codes


@triton.jit
def add_values(weights, values, attended, T: tl.constexpr):
    """Return `attended` ``[M, D]`` fp32 plus weights times values; times 448 where the values are FP8."""
    if values.dtype == tl.float8e4nv:
        attended = tl.dot((weights * FP8_MAX).to(tl.float8e4nv), values, attended)
    else:
        attended = tl.dot(weights.to(T), widen(values, T), attended)
    return attended
