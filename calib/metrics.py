"""Accuracy of features and captions on labelled pictures: recall at k, zero-shot accuracy, exact match, in percent."""

from collections.abc import Sequence

import numpy as np

RECALL_AT = (1, 5, 10)


def recall(scores: np.ndarray, right: np.ndarray | None = None) -> dict[str, float]:
    """Return recall at k in percent, as ``{"R@1": 83.0, ...}``, of the scores of queries x candidates ``[Q, C]``.

    `right` ``[Q, C]`` marks the correct candidates of each query, of which the one with the highest score counts; None
    stands for the diagonal. The rank is the number of candidates with a strictly higher score, so that a tie does not
    count against the correct candidate. NaN counts as a miss.
    """
    best = _best(scores, right)
    ranks = (~(scores <= best[:, None])).sum(axis=1)
    return {f"R@{k}": 100.0 * float((ranks < k).mean()) for k in RECALL_AT}


def strict_recall_at_1(scores: np.ndarray, right: np.ndarray | None = None) -> float:
    """Return R@1 of ``[Q, C]`` in percent with ties as misses, unlike `recall`: equal features match nothing."""
    own = np.eye(len(scores), dtype=bool) if right is None else right
    others = np.where(own, -np.inf, scores)
    return 100.0 * float((others.max(axis=1) < _best(scores, right)).mean())


def accuracy(scores: np.ndarray, right: np.ndarray) -> float:
    """Return the percentage of rows ``[N, classes]`` whose highest score is that of the class ``right`` ``[N]``."""
    return 100.0 * float((scores.argmax(axis=1) == right).mean())


def exact_match(found: Sequence[str], expected: Sequence[str | Sequence[str]]) -> float:
    """Return the percentage of texts that equal an expected one, without white space at the ends."""
    pairs = zip(found, expected, strict=True)
    return 100.0 * float(np.mean([text.strip() in _stripped(others) for text, others in pairs]))


def caption_owners(counts: Sequence[int]) -> np.ndarray:
    """Return which captions belong to which picture, ``[pictures, captions]``, given the number of captions of each."""
    owners = np.repeat(np.arange(len(counts)), counts)
    found: np.ndarray = owners == np.arange(len(counts))[:, None]
    return found


def _best(scores: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """Return the highest score ``[Q]`` of a correct candidate; NaN if any of them is NaN."""
    return np.diag(scores) if right is None else np.where(right, scores, -np.inf).max(axis=1)


def _stripped(texts: str | Sequence[str]) -> list[str]:
    return [text.strip() for text in ([texts] if isinstance(texts, str) else texts)]
