"""Self attention of InternViT as MODEL.md 3.1 writes it, in NumPy float64."""

import numpy as np


def rms_norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """Return `x` ``[..., C]`` over its root mean square, times `gain`."""
    return np.asarray(x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * gain)


def attention(
    qkv: np.ndarray, heads: int, gains: tuple[np.ndarray, np.ndarray] | None = None, eps: float = 1e-6
) -> np.ndarray:
    """Return ``[B, N, C]`` of the packed projection ``[B, N, 3*C]``; `gains` of the norms of q and k over all of C."""
    batch, rows, packed = qkv.shape
    q, k, v = np.split(qkv, 3, axis=-1)
    if gains is not None:
        q, k = rms_norm(q, gains[0], eps), rms_norm(k, gains[1], eps)
    width = packed // 3
    q, k, v = (x.reshape(batch, rows, heads, width // heads).transpose(0, 2, 1, 3) for x in (q, k, v))
    scores = q @ k.swapaxes(2, 3) / np.sqrt(width // heads)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    attended = weights / weights.sum(axis=-1, keepdims=True) @ v
    return np.asarray(attended.transpose(0, 2, 1, 3).reshape(batch, rows, width))
