"""Accuracy of features and captions on labelled pictures: recall at k, zero-shot accuracy, exact match, in percent."""

from collections.abc import Sequence

import numpy as np

RECALL_AT = (1, 5, 10)


def recall(scores: np.ndarray, right: np.ndarray | None = None) -> dict[str, float]:
    """Return ``{"R@1": percent, ...}`` of queries x candidates ``[Q, C]``.

    `right` ``[Q, C]`` says which candidates answer a query, of which the best ranked counts; None: the diagonal. A rank
    is the number of candidates with a strictly higher score, so a tie does not count against the right answer; NaN
    does.
    """
    best = _best(scores, right)
    ranks = (~(scores <= best[:, None])).sum(axis=1)
    return {f"R@{k}": 100.0 * float((ranks < k).mean()) for k in RECALL_AT}


def strict_recall_at_1(scores: np.ndarray, right: np.ndarray | None = None) -> float:
    """Return R@1 of ``[Q, C]`` as `recall` does, but ties count as misses: features all alike are no match."""
    own = np.eye(len(scores), dtype=bool) if right is None else right
    others = np.where(own, -np.inf, scores)
    return 100.0 * float((others.max(axis=1) < _best(scores, right)).mean())


def accuracy(scores: np.ndarray, right: np.ndarray) -> float:
    """Return how often the highest of ``[N, classes]`` is the class ``right`` ``[N]``."""
    return 100.0 * float((scores.argmax(axis=1) == right).mean())


def exact_match(found: Sequence[str], expected: Sequence[str | Sequence[str]]) -> float:
    """Return how often a text equals the one expected, or one of several, but for white space around them."""
    pairs = zip(found, expected, strict=True)
    return 100.0 * float(np.mean([text.strip() in _stripped(others) for text, others in pairs]))


def caption_owners(counts: Sequence[int]) -> np.ndarray:
    """Return which of all captions are those of each picture, ``[pictures, captions]``, of how many each has."""
    owners = np.repeat(np.arange(len(counts)), counts)
    found: np.ndarray = owners == np.arange(len(counts))[:, None]
    return found


def _best(scores: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """Return the highest score ``[Q]`` of a right answer, NaN where one is."""
    return np.diag(scores) if right is None else np.where(right, scores, -np.inf).max(axis=1)


def _stripped(texts: str | Sequence[str]) -> list[str]:
    return [text.strip() for text in ([texts] if isinstance(texts, str) else texts)]
