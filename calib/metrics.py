"""Accuracy of features and captions on labelled pictures: recall at k, zero-shot accuracy, exact match, in percent."""

from collections.abc import Sequence

import numpy as np

RECALL_AT = (1, 5, 10)


def recall(scores: np.ndarray) -> dict[str, float]:
    """Return ``{"R@1": percent, ...}`` of queries x candidates ``[N, N]`` whose right answers are the diagonal.

    A rank is the number of candidates with a strictly higher score, so a tie does not count against the right answer;
    NaN does.
    """
    ranks = (~(scores <= np.diag(scores)[:, None])).sum(axis=1)
    return {f"R@{k}": 100.0 * float((ranks < k).mean()) for k in RECALL_AT}


def clear_first(scores: np.ndarray) -> float:
    """Return R@1 of ``[N, N]`` as `recall` does, but ties count as misses: features all alike are no match."""
    others = np.where(np.eye(len(scores), dtype=bool), -np.inf, scores)
    return 100.0 * float((others.max(axis=1) < np.diag(scores)).mean())


def accuracy(scores: np.ndarray, right: np.ndarray) -> float:
    """Return how often the highest of ``[N, classes]`` is the class ``right`` ``[N]``."""
    return 100.0 * float((scores.argmax(axis=1) == right).mean())


def exact_match(found: Sequence[str], expected: Sequence[str]) -> float:
    """Return how often two texts are equal but for white space around them."""
    pairs = zip(found, expected, strict=True)
    return 100.0 * float(np.mean([a.strip() == b.strip() for a, b in pairs]))
