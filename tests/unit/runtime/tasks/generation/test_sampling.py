"""Sampling: which ids may be drawn, with which probabilities, and that a seed repeats them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.sampling import Sampler, distribution


def sampling(**values: float) -> GenerationConfig:
    return GenerationConfig(do_sample=True, **values)  # type: ignore[arg-type]


def scores_of(probabilities: list[float]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, np.float32))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
        ({"temperature": 0.5}, {0: 0.01 / 0.3, 1: 0.16 / 0.3, 2: 0.04 / 0.3, 3: 0.09 / 0.3}),
        ({"top_k": 2}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_k": 0}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
        ({"top_p": 0.65}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_p": 0.75}, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
        ({"top_p": 0.0}, {1: 1.0}),
        ({"min_p": 0.6}, {1: 4 / 7, 3: 3 / 7}),
        # After top-k the sum of the most likely two is 1, so that top-p 0.5 needs the first alone; without the order
        # of the reference it would need two.
        ({"top_k": 2, "top_p": 0.5}, {1: 1.0}),
    ],
)
def test_what_may_be_drawn(values: dict[str, float], expected: dict[int, float]) -> None:
    ids, probabilities = distribution(scores_of([0.1, 0.4, 0.2, 0.3]), sampling(**values))
    assert ids.tolist() == list(expected)
    np.testing.assert_allclose(probabilities, list(expected.values()), rtol=1e-5)


def test_ids_that_are_as_likely_as_the_last_of_top_k_stay() -> None:
    ids, _ = distribution(scores_of([0.25, 0.25, 0.25, 0.25]), sampling(top_k=2))
    assert ids.tolist() == [0, 1, 2, 3]


def test_top_k_50_is_the_default() -> None:
    ids, _ = distribution(np.arange(80, dtype=np.float32) / 80, sampling(temperature=0.6))
    assert ids.tolist() == list(range(30, 80))


def test_impossible_ids_are_never_drawn() -> None:
    config = sampling(seed=1)
    scores = scores_of([0.0, 0.5, 0.0, 0.5])
    assert {int(Sampler(config, 1).draw(scores[None])[0])} <= {1, 3}
    ids, _ = distribution(scores, config)
    assert ids.tolist() == [1, 3]


@settings(max_examples=200)
@given(
    st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=60),
    st.floats(0.0, 1.0),
    st.integers(0, 8),
)
def test_top_p_equals_a_full_sort(logits: list[float], top_p: float, top_k: int) -> None:
    scores = np.array(logits, np.float32)
    ids, probabilities = distribution(scores, sampling(top_p=top_p, top_k=top_k))
    kept = scores >= np.sort(scores)[::-1][min(top_k or len(scores), len(scores)) - 1]
    weights = np.where(kept, np.exp(scores.astype(np.float64) - scores.max()), 0)
    weights /= weights.sum()
    smallest_first = np.argsort(weights, kind="stable")
    # Removed in the reference: those up to which the sum, smallest first, is at most 1 - top_p; never the last one.
    sums = np.cumsum(weights[smallest_first])
    clear = np.abs(sums - (1 - top_p)) > 1e-9
    removed = set(smallest_first[(sums <= 1 - top_p)][: len(scores) - 1].tolist())
    expected = [token for token in np.flatnonzero(kept).tolist() if token not in removed]
    if clear.all() and len(set(weights[kept].tolist())) == kept.sum():
        assert ids.tolist() == expected
    assert probabilities.sum() == pytest.approx(1)


def test_a_seed_repeats_the_draws_and_rows_are_independent() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 200)).astype(np.float32)

    def drawn(seed: int | None, rows: int) -> list[list[int]]:
        sampler = Sampler(sampling(seed=seed), rows)  # type: ignore[arg-type]
        return np.stack([sampler.draw(np.repeat(scores, rows, axis=0)) for _ in range(12)], axis=1).tolist()

    one, two = drawn(7, 1), drawn(7, 2)
    assert one[0] == two[0]
    assert two[0] != two[1]
    assert drawn(8, 1) != one != drawn(-7, 1)
    assert drawn(None, 1) != drawn(None, 1)


def test_draws_follow_the_probabilities() -> None:
    sampler = Sampler(sampling(seed=3), 1)
    scores = scores_of([0.1, 0.4, 0.2, 0.3])[None]
    counts = np.bincount([int(sampler.draw(scores)[0]) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, [0.1, 0.4, 0.2, 0.3], atol=0.03)
