"""The running softmax over tiles of keys, which the attention kernels share.

Scores are multiplied by log2(e), because the exponential of the hardware is ``exp2``.
"""

import triton
import triton.language as tl


@triton.jit
def softmax_start(M: tl.constexpr, D: tl.constexpr):
    """Return largest score and sum of weights, ``[M]`` fp32, and the attended values ``[M, D]`` fp32, of no keys."""
    return tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32), tl.zeros([M, D], tl.float32)


@triton.jit
def softmax_weights(scores, top, total):
    """Take one tile of scores ``[M, N]`` fp32 in; hidden keys are -inf.

    Return the weights ``[M, N]`` of its keys, the largest score and the sum so far, and by how much what was attended
    before shrinks ``[M]``. A row that has seen no key yet stays without weights, not NaN.
    """
    new = tl.maximum(top, tl.max(scores, 1))
    finite = tl.where(new == float("-inf"), 0.0, new)
    weights = tl.exp2(scores - finite[:, None])
    shrink = tl.exp2(top - finite)
    return weights, new, total * shrink + tl.sum(weights, 1), shrink
