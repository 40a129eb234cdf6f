"""Attention of packed heads as MODEL.md 3.2 and 3.4 write it, in NumPy float64, and inputs for it."""

import numpy as np
import torch

from tests.parity.plugins.kernel_cases import LARGEST_CODE, coded


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Return softmax(q k^T / sqrt(D)) v of ``[B, M, H*D]`` on ``[B, N, H*D]``, packed again."""
    batch, _, width = q.shape
    q, k, v = (x.reshape(batch, -1, heads, width // heads).transpose(0, 2, 1, 3) for x in (q, k, v))
    scores = q @ k.swapaxes(2, 3) / np.sqrt(width // heads)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    attended = weights / weights.sum(axis=-1, keepdims=True) @ v
    return np.asarray(attended.transpose(0, 2, 1, 3).reshape(batch, -1, width))


def random_tensors(
    batch: int, rows: int, keys: int, width: int, *, kind: str, out: str, amplitude: float, seed: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return q ``[B, rows, width]``, k and v ``[B, keys, width]``, and scales ``[4]`` of these and of the result."""
    rng = np.random.default_rng(seed)
    reaches = ((kind, 4 * amplitude), (kind, 4 * amplitude), (kind, 4.0), (out, 2.0))
    scales = np.array([reach / LARGEST_CODE.get(type_, reach) for type_, reach in reaches], np.float32)
    sizes = ((rows, amplitude), (keys, amplitude), (keys, 1.0))
    found = [
        coded(rng.normal(size=(batch, count, width)) * deviation, kind, scale)
        for (count, deviation), scale in zip(sizes, scales, strict=False)
    ]
    return found, torch.tensor(scales)


def values(tensors: list[torch.Tensor], scales: torch.Tensor) -> list[np.ndarray]:
    """Return the numbers that `tensors` stand for."""
    return [
        x.double().numpy() * (float(scale) if x.element_size() == 1 else 1.0)
        for x, scale in zip(tensors, scales, strict=False)
    ]
