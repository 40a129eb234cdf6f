"""Metrics on numbers checked by hand."""

import numpy as np
import pytest

from internvl_edge.calib.metrics import accuracy, caption_owners, exact_match, recall, strict_recall_at_1


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
    assert exact_match(["cat", "dog"], [["Cat", " cat"], []]) == 50.0


def test_of_several_right_candidates_the_best_ranked_counts() -> None:
    right = caption_owners([2, 1, 0])
    np.testing.assert_array_equal(right, [[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    scores = np.array([[0.1, 0.9, 0.5], [0.2, 0.6, 0.4]])
    assert recall(scores, right[:2])["R@1"] == 50.0
    assert recall(scores.T, right[:2].T)["R@1"] == pytest.approx(100 / 3)  # picture 1 is nearer to caption 0
    assert strict_recall_at_1(scores, right[:2]) == 50.0
    scores[0, 2] = 0.9  # a tie with another picture's caption
    assert recall(scores, right[:2])["R@1"] == 50.0
    assert strict_recall_at_1(scores, right[:2]) == 0.0
    scores[0, 0] = np.nan
    assert recall(scores, right[:2])["R@1"] == 0.0
