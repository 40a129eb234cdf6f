"""Self attention of QLLaMA as MODEL.md 3.4 to 3.9 writes it, in NumPy float64."""

import numpy as np

ROPE_THETA = 10000.0


def rotary_tables(places: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine of every position, ``[places, D/2]``."""
    inverse = ROPE_THETA ** (-2.0 * np.arange(head_dim // 2) / head_dim)
    angles = np.arange(places)[:, None] * inverse[None, :]
    return np.cos(angles), np.sin(angles)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return ``x cos + rot(x) sin`` of `x` ``[B, H, n, D]`` at `positions` ``[B, n]``, rot(a, b) = (-b, a)."""
    c, s = (np.concatenate([t, t], axis=1)[positions][:, None] for t in (cos, sin))
    a, b = np.split(x, 2, axis=-1)
    return np.asarray(x * c + np.concatenate([-b, a], axis=-1) * s)


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """Return ``[B, n, H*D]`` as ``[B, H, n, D]``."""
    batch, rows, width = x.shape
    return x.reshape(batch, rows, heads, width // heads).transpose(0, 2, 1, 3)


def may_see(rows: int, past: int, keep: np.ndarray | None, *, causal: bool) -> np.ndarray:
    """Return which of ``past + n`` keys each of n rows sees, ``[B or 1, 1, n, past + n]``."""
    keys = np.arange(past + rows)
    allowed = keys[None, :] <= past + np.arange(rows)[:, None] if causal else np.ones((rows, past + rows), bool)
    allowed = allowed[None, None]
    return allowed if keep is None else allowed & (keep > 0)[:, None, None, :]


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return softmax(q k^T / sqrt(D)) v over the allowed keys, heads merged: ``[B, n, H*D]``.

    A row without any key gives 0 here: MODEL.md has meaningless values there.
    """
    scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    scores = np.where(allowed, scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    attended = weights / np.where(total > 0, total, 1.0) @ v
    batch, heads, rows, size = attended.shape
    return attended.transpose(0, 2, 1, 3).reshape(batch, rows, heads * size)
