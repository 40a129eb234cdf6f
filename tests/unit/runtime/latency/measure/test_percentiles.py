"""Percentiles and their intervals: exact probabilities, true coverage, and trtexec's own rank."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.latency.measure.percentiles import (
    binomial_cdf,
    calls_needed,
    distribution,
    interval_ranks,
    percentile,
    trtexec_rank,
)

COUNTS = st.integers(1, 120)
QUANTILES = st.integers(1, 99)
CONFIDENCES = st.sampled_from([0.5, 0.9, 0.95, 0.99])


def exact_cdf(count: int, percent: int) -> list[Fraction]:
    chance, total, values = Fraction(percent, 100), Fraction(0), []
    for hits in range(count + 1):
        total += comb(count, hits) * chance**hits * (1 - chance) ** (count - hits)
        values.append(total)
    return values


@given(count=COUNTS, percent=QUANTILES)
def test_the_binomial_is_exact(count: int, percent: int) -> None:
    exact = [float(value) for value in exact_cdf(count, percent)]
    np.testing.assert_allclose(binomial_cdf(count, percent / 100), exact, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("chance", "expected"), [(0.0, [1, 1, 1]), (1.0, [0, 0, 1])])
def test_sure_chances(chance: float, expected: list[float]) -> None:
    np.testing.assert_array_equal(binomial_cdf(2, chance), expected)


@given(count=COUNTS, percent=QUANTILES, confidence=CONFIDENCES)
def test_the_interval_holds_its_confidence_and_is_no_wider(count: int, percent: int, confidence: float) -> None:
    cdf, tail = [0.0, *map(float, exact_cdf(count, percent))], (1 - confidence) / 2  # cdf[k] = P(B < k)
    low, high = interval_ranks(count, percent / 100, confidence)
    slack = 1e-12
    if low is not None:
        assert cdf[low] <= tail + slack  # the quantile lies below X_(low) when fewer than low calls lie under it
    if high is not None:
        assert 1 - cdf[high] <= tail + slack
    assert cdf[(low or 0) + 1] > tail - slack, "a higher rank would do too"
    assert 1 - cdf[(high or count + 1) - 1] > tail - slack, "a lower rank would do too"


@pytest.mark.parametrize("percent", [50, 90, 99])
@pytest.mark.parametrize("draw", ["exponential", "lognormal", "uniform"])
def test_intervals_cover_the_true_quantile_as_often_as_they_say(
    draw: str, percent: int, rng: np.random.Generator
) -> None:
    count, trials = 500, 1000
    samples = np.sort(getattr(rng, draw)(size=(trials, count)), axis=1)
    true = np.quantile(getattr(rng, draw)(size=2_000_000), percent / 100)
    low, high = interval_ranks(count, percent / 100, 0.95)
    assert low is not None
    assert high is not None
    inside = (samples[:, low - 1] <= true) & (true <= samples[:, high - 1])
    assert inside.mean() > 0.95 - 4 * np.sqrt(0.95 * 0.05 / trials)  # 4 standard errors of the count itself


@given(percent=st.integers(1, 99))
def test_calls_needed_is_the_least_number_with_an_upper_bound(percent: int) -> None:
    needed = calls_needed(percent / 100)
    assert interval_ranks(needed, percent / 100, 0.95)[1] is not None
    assert needed == 1 or interval_ranks(needed - 1, percent / 100, 0.95)[1] is None


def test_a_bound_that_the_calls_do_not_give_is_none() -> None:
    found = percentile(np.arange(50.0), 99)
    assert found.high_ms is None
    assert (
        found.low_ms == 47.0
    )  # X_(48): fewer than 48 of 50 lie under the quantile with chance 0.0138; than 49: 0.0894


@pytest.mark.parametrize(
    ("count", "percent", "index"),
    [(100, 90.0, 89), (100, 50.0, 49), (1000, 99.0, 989), (10, 99.0, 9), (10, 100.0, 9), (1, 50.0, 0), (3, 10.0, 0)],
)
def test_the_rank_is_trtexecs(count: int, percent: float, index: int) -> None:
    """all - 1 - int((1 - p / 100) * all) in float32."""
    excluded = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(count))
    assert trtexec_rank(count, percent) == max(count - 1 - excluded, 0)
    assert abs(trtexec_rank(count, percent) - index) <= 1


def test_a_distribution_by_hand() -> None:
    found = distribution([1.0, 2.0, 3.0, 4.0, 100.0], [50.0])
    assert (found.min_ms, found.max_ms, found.median_ms, found.mean_ms) == (1.0, 100.0, 3.0, 22.0)
    assert found.outliers == 1  # quartiles 2 and 4: the fence is 10
    assert found.variation_percent == pytest.approx(100 * np.std([1, 2, 3, 4, 100]) / 22)


def test_autocorrelation_tells_a_drift_from_noise(rng: np.random.Generator) -> None:
    noise = 10 + rng.standard_normal(2000)
    assert abs(distribution(noise, []).autocorrelation) < 0.1
    assert distribution(np.sort(noise), []).autocorrelation > 0.9
    assert distribution([0.3] * 50, []).autocorrelation == 0.0
