"""The most likely tokens, with and without blocks of scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.tasks.generation.ranking import most_likely, ranked


@given(st.integers(0, 99), st.integers(1, 5000), st.integers(1, 70), st.sampled_from([3, 1000]))
def test_the_largest_scores_and_their_ties_are_found(seed: int, size: int, count: int, levels: int) -> None:
    scores = np.random.default_rng(seed).integers(0, levels, size).astype(np.float32)
    least = np.sort(scores)[::-1][min(count, size) - 1]
    np.testing.assert_array_equal(most_likely(scores, count), np.flatnonzero(scores >= least))
    np.testing.assert_array_equal(ranked(scores, count), np.argsort(-scores, kind="stable")[:count])
    assert len(ranked(scores, 0)) == 0


@pytest.mark.parametrize("size", [10, 1000])
def test_impossible_ids_come_last(size: int) -> None:
    scores = np.full(size, -np.inf, np.float32)
    scores[[2, 5]] = 1, 2
    assert most_likely(scores, 2).tolist() == [2, 5]
    assert len(most_likely(scores, 3)) == size
