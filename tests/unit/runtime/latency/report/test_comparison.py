"""Faster, slower, equal: the ratio of medians and how sure it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.latency.report.comparison import EQUAL, compare


def noisy(rng: np.random.Generator, median: float, count: int = 400) -> list[float]:
    return list(median * np.exp(0.05 * rng.standard_normal(count)))


@pytest.mark.parametrize(("factor", "answer"), [(0.9, "faster"), (1.0, "equal"), (1.1, "slower")])
def test_the_answer_follows_the_medians(factor: float, answer: str, rng: np.random.Generator) -> None:
    found = compare(noisy(rng, 5 * factor), noisy(rng, 5.0))
    assert found.answer == answer
    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(factor, rel=0.02)


def test_few_calls_are_never_sure(rng: np.random.Generator) -> None:
    found = compare(noisy(rng, 5.15, 8), noisy(rng, 5.0, 8))
    assert found.answer == "equal"
    assert found.high - found.low > EQUAL - 1


def test_calls_that_follow_each_other_widen_the_interval(rng: np.random.Generator) -> None:
    """Slow waves, as of a clock: the same values in random order promise more than there is."""
    wave = 5 + np.sin(np.arange(600) / 40) + 0.05 * rng.standard_normal(600)
    flat = [5.0] * 600
    ordered, shuffled = compare(list(wave), flat), compare(list(rng.permutation(wave)), flat)
    assert ordered.high - ordered.low > 1.5 * (shuffled.high - shuffled.low)


@settings(max_examples=15)
@given(times=st.lists(st.floats(0.1, 100), min_size=1, max_size=60), factor=st.floats(0.01, 100))
def test_the_ratio_is_of_the_medians(times: list[float], factor: float) -> None:
    found = compare([time * factor for time in times], times)
    assert found.ratio == pytest.approx(factor, rel=1e-9)
    assert found.median_ms == pytest.approx(float(np.median(times)) * factor)


def test_the_interval_covers_the_true_ratio(rng: np.random.Generator) -> None:
    true, inside, trials = 1.1, 0, 40
    for _ in range(trials):
        found = compare(noisy(rng, 5 * true, 100), noisy(rng, 5.0, 100))
        inside += found.low <= true <= found.high
    assert inside >= 32  # 95 % of 40 is 38; fewer than 32 would come by chance once in 100,000


def test_a_run_that_drifts_cannot_tell_less_than_its_drift(rng: np.random.Generator) -> None:
    steady, drifting = noisy(rng, 5.0), list(np.linspace(5.0, 6.0, 400))
    found = compare(drifting, steady)
    assert found.low > EQUAL
    assert found.margin == pytest.approx(5.8333 / 5.1667, rel=0.01)
    assert found.answer == "equal"
    assert compare(steady, steady).margin == EQUAL


@pytest.mark.parametrize("ends", [(5.0, 15.0), (15.0, 5.0)])
@pytest.mark.parametrize(("factor", "answer"), [(0.001, "faster"), (1000.0, "slower")])
def test_a_run_that_drifts_far_still_tells_what_is_farther(
    ends: tuple[float, float], factor: float, answer: str, rng: np.random.Generator
) -> None:
    """The margin is a factor: as a difference from 1 it would let no ratio be low enough beyond a drift of 100 %."""
    drifting = list(np.linspace(*ends, 400))
    found = compare([factor * time for time in drifting], noisy(rng, 10.0))
    assert found.margin == pytest.approx((15 - 10 / 6) / (5 + 10 / 6), rel=0.01)
    assert found.answer == answer
    assert compare(noisy(rng, 10.0), [factor * time for time in drifting]).answer != answer


def test_long_runs_are_thinned(rng: np.random.Generator) -> None:
    found = compare(noisy(rng, 5.0, 60_000), noisy(rng, 5.0, 60_000))
    assert found.answer == "equal"
    assert found.high - found.low < EQUAL - 1
