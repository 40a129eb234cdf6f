"""What is done with raw features, in NumPy and fp32: unit norms, similarity, zero-shot classes (MODEL.md 3.7, 4.2)."""

from collections.abc import Sequence

import numpy as np

CLASSIFICATION_SCALE = 100.0
"""The reference's zero-shot protocol multiplies cosines by this, not by the model's own logit scale."""


def unit(features: np.ndarray) -> np.ndarray:
    """Return `features` ``[..., D]`` with L2 norm 1 on the last axis."""
    values = np.asarray(features, np.float32)
    normed: np.ndarray = values / np.linalg.norm(values, axis=-1, keepdims=True)
    return normed


def similarity_logits(images: np.ndarray, texts: np.ndarray, logit_scale: float) -> np.ndarray:
    """Return ``[B, T]`` of raw features ``[B, D]`` and ``[T, D]``; `logit_scale` as stored, a logarithm."""
    logits: np.ndarray = np.exp(np.float32(logit_scale)) * (unit(images) @ unit(texts).T)
    return logits


def zero_shot_classifier(template_features: Sequence[np.ndarray]) -> np.ndarray:
    """Return ``[D, classes]`` of raw text features ``[templates, D]`` per class: normalised, averaged, normalised."""
    return np.stack([unit(unit(features).mean(axis=0)) for features in template_features], axis=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
