"""Metrics on numbers checked by hand."""

import numpy as np
import pytest

from internvl_edge.calib.metrics import accuracy, exact_match, recall


def test_recall_counts_strictly_higher_candidates() -> None:
    scores = np.zeros((12, 12))
    scores[0, 1] = 1.0  # one higher: rank 1
    scores[1, 2:8] = 1.0  # six higher: rank 6
    scores[2, [0, 1, *range(3, 12)]] = 1.0  # eleven higher: rank 11
    assert recall(scores) == pytest.approx({"R@1": 75.0, "R@5": 100 * 10 / 12, "R@10": 100 * 11 / 12})


def test_accuracy() -> None:
    assert accuracy(np.array([[1, 2], [3, 0], [0, 1]]), np.array([1, 0, 0])) == pytest.approx(200 / 3)


def test_exact_match_ignores_white_space_around() -> None:
    assert exact_match([" cat", "dog", "Cat"], ["cat ", "dig", "cat"]) == pytest.approx(100 / 3)
