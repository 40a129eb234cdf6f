"""Arithmetic on raw features in NumPy and fp32: unit norms, similarity, zero-shot classes (MODEL.md 3.7, 4.2)."""

from collections.abc import Sequence

import numpy as np

from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.finite import require_finite

CLASSIFICATION_SCALE = 100.0
"""Factor of cosines in the reference's zero-shot protocol, which does not use the model's own logit scale."""


def unit(features: np.ndarray) -> np.ndarray:
    """Return `features` ``[..., D]`` with L2 norm 1 on the last axis."""
    values = np.asarray(features, np.float32)
    with np.errstate(invalid="ignore"):  # inf / inf is NaN, which `require_direction` reports
        normed: np.ndarray = values / np.linalg.norm(values, axis=-1, keepdims=True)
    return normed


def require_direction(features: np.ndarray, what: str) -> np.ndarray:
    """Return `features` ``[N, D]`` of `what` if every row has a direction: NaN would take any place in a ranking.

    Raises:
        BackendError: rows with NaN or infinity, or of zeros alone.
    """
    if silent := int((~require_finite(features, what).any(axis=1)).sum()):
        raise BackendError(f"{what}: {silent} of {len(features)} have features of zeros alone; export the bundle again")
    return features


def similarity_logits(images: np.ndarray, texts: np.ndarray, logit_scale: float) -> np.ndarray:
    """Return logits ``[B, T]`` of raw features ``[B, D]`` and ``[T, D]``; `logit_scale` is a logarithm, as stored."""
    pictures, captions = unit(require_direction(images, "pictures")), unit(require_direction(texts, "texts"))
    logits: np.ndarray = np.exp(np.float32(logit_scale)) * (pictures @ captions.T)
    return logits


def zero_shot_classifier(template_features: Sequence[np.ndarray]) -> np.ndarray:
    """Return ``[D, classes]`` from text features ``[templates, D]`` of each class: normalised, averaged, normalised."""
    return np.stack([unit(unit(require_direction(each, "texts")).mean(axis=0)) for each in template_features], axis=1)


def class_probabilities(features: np.ndarray, classifier: np.ndarray) -> np.ndarray:
    """Return probabilities ``[B, classes]`` of raw picture features ``[B, D]`` with a classifier ``[D, classes]``."""
    return softmax(CLASSIFICATION_SCALE * (unit(require_direction(features, "pictures")) @ classifier))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
