"""Percentiles of measured times with confidence intervals, from order statistics and exact binomial probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, lgamma, log, sqrt

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """One percentile in ms with its confidence interval.

    A bound is None if there are too few calls for it: the 99th percentile of 50 calls has no upper bound.
    """

    percent: float
    value_ms: float
    low_ms: float | None
    high_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Statistics of a series of times, in ms."""

    count: int
    min_ms: float
    max_ms: float
    mean_ms: float
    median_ms: float
    variation_percent: float
    """Coefficient of variation: standard deviation over mean."""
    percentiles: tuple[Percentile, ...]
    outliers: int
    """Number of calls beyond Tukey's outer fence, 3 interquartile ranges above the third quartile."""
    autocorrelation: float
    """Correlation of neighbouring calls; if it is far from 0, intervals are too narrow: they assume independence."""


def distribution(times_ms: Sequence[float] | np.ndarray, percents: Sequence[float]) -> Distribution:
    """Return the statistics of at least one time; times are given in the order of measurement."""
    times = np.asarray(times_ms, np.float64)
    ordered = np.sort(times)
    mean = float(times.mean())
    return Distribution(
        count=len(times),
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        mean_ms=mean,
        median_ms=float(np.median(ordered)),
        variation_percent=float(times.std() / mean * 100) if mean > 0 else 0.0,
        percentiles=tuple(percentile(ordered, percent) for percent in percents),
        outliers=int((times > _outer_fence(ordered)).sum()),
        autocorrelation=_autocorrelation(times),
    )


def percentile(ordered: np.ndarray, percent: float, confidence: float = CONFIDENCE) -> Percentile:
    """Return a percentile of sorted times ``[N]``, by trtexec's rule."""
    low, high = interval_ranks(len(ordered), percent / 100, confidence)
    return Percentile(
        percent=percent,
        value_ms=float(ordered[trtexec_rank(len(ordered), percent)]),
        low_ms=None if low is None else float(ordered[low - 1]),
        high_ms=None if high is None else float(ordered[high - 1]),
    )


def trtexec_rank(count: int, percent: float) -> int:
    """Return the index into the sorted times that trtexec uses (`findPercentile` in its sampleReporting.cpp)."""
    excluded = int(np.float32(1 - np.float32(percent) / np.float32(100)) * np.float32(count))
    return max(count - 1 - excluded, 0)


def interval_ranks(count: int, quantile: float, confidence: float) -> tuple[int | None, int | None]:
    """Return the ranks, from 1, of the order statistics that enclose the quantile with at least this confidence.

    The number of times at or below the true quantile has a binomial distribution, whatever the distribution of times.
    Each tail gets half of the remaining probability. None: no order statistic is a bound on that side.
    """
    tail = (1 - confidence) / 2
    below = binomial_cdf(count, quantile)
    fits = np.flatnonzero(below <= tail)
    low = int(fits[-1]) + 1 if len(fits) else None  # P(B < low) <= tail
    passes = np.flatnonzero(below[:count] >= 1 - tail)
    high = int(passes[0]) + 1 if len(passes) else None  # P(B >= high) <= tail
    return low, high


def binomial_cdf(count: int, chance: float) -> np.ndarray:
    """Return P(B <= k) for k = 0 to `count`, ``[count + 1]``, with B binomial and `chance` in [0, 1]."""
    hits = np.arange(count + 1)
    if chance in (0.0, 1.0):
        return np.where(hits >= count * chance, 1.0, 0.0)
    logs = hits * log(chance) + (count - hits) * log(1 - chance) + _log_choose(count)
    cdf: np.ndarray = np.minimum(np.cumsum(np.exp(logs)), 1.0)
    return cdf


def calls_needed(quantile: float, confidence: float = CONFIDENCE) -> int:
    """Return the number of calls from which this quantile has an upper bound."""
    return ceil(log((1 - confidence) / 2) / log(quantile))


def _log_choose(count: int) -> np.ndarray:
    """Return the logarithms of the binomial coefficients (count, k) for k = 0 to `count`."""
    factorials = np.array([lgamma(value + 1) for value in range(count + 1)])
    result: np.ndarray = factorials[count] - factorials - factorials[::-1]
    return result


def _outer_fence(ordered: np.ndarray) -> float:
    first, third = np.percentile(ordered, (25, 75))
    return float(third + 3 * (third - first))


def _autocorrelation(times: np.ndarray) -> float:
    """Return the correlation of each time with the next; 0 if all are equal or too few."""
    centred = times - times.mean()
    spread = float((centred**2).sum())
    if len(times) < 3 or sqrt(spread) <= 1e-12 * float(np.abs(times).max()) * len(times):
        return 0.0
    return float((centred[:-1] * centred[1:]).sum() / spread)
