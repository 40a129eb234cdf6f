"""Self attention of InternViT as MODEL.md 3.1 writes it, in NumPy float64."""

import numpy as np

from tests.parity.plugins.packed_attention import attend


def rms_norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """Return `x` ``[..., C]`` over its root mean square, times `gain`."""
    return np.asarray(x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * gain)


def attention(
    qkv: np.ndarray, heads: int, gains: tuple[np.ndarray, np.ndarray] | None = None, eps: float = 1e-6
) -> np.ndarray:
    """Return ``[B, N, C]`` of the packed projection ``[B, N, 3*C]``; `gains` of the norms of q and k over all of C."""
    q, k, v = np.split(qkv, 3, axis=-1)
    if gains is not None:
        q, k = rms_norm(q, gains[0], eps), rms_norm(k, gains[1], eps)
    return attend(q, k, v, heads)
