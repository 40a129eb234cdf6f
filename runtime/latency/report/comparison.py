"""Comparison with a baseline: a bootstrap confidence interval of the ratio of two medians."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from internvl_edge.runtime.latency.measure.steady_state import drift

RESAMPLES = 2000
"""Number of bootstrap resamples."""
EQUAL = 1.02
"""Ratios from 1 / 1.02 to 1.02 count as equal: two runs of one bundle on one machine differ by so much, for reasons
that resampling the calls of each run cannot show."""
_BLOCKS = 20
"""Smallest number of blocks into which a run is divided for resampling."""
_SEED = 20231222
_MOST_CALLS = 5000
"""Largest number of resampled calls; longer runs are thinned evenly, as the interval is then far below `EQUAL`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of comparing a run with an earlier one."""

    answer: Literal["faster", "slower", "equal"]
    ratio: float
    """Median of this run over that of the earlier one: below 1 is faster."""
    low: float
    """Lower bound of the ratio's confidence interval."""
    high: float
    """Upper bound of the ratio's confidence interval."""
    margin: float
    """Ratios from 1 / margin to margin count as equal: `EQUAL`, or the drift of the run that drifts more."""
    median_ms: float
    baseline_ms: float


def compare(times_ms: Sequence[float], baseline_ms: Sequence[float], confidence: float = 0.95) -> Comparison:
    """Compare two series of at least one call, each in its order.

    Blocks of neighbouring calls are resampled (block bootstrap): neighbouring latencies are correlated, through clocks
    and other work, so resampling single calls would give too narrow an interval. Blocks have n^(1/3) calls (Hall,
    Horowitz and Jing, 1995), or a twentieth of the run if that is longer, since other work on a machine lasts seconds.
    """
    rng = np.random.default_rng(_SEED)
    mine, theirs = _thinned(times_ms), _thinned(baseline_ms)
    ratio = float(np.median(mine) / np.median(theirs))
    ratios = _medians(mine, rng) / _medians(theirs, rng)
    tail = (1 - confidence) / 2 * 100
    low, high = (float(bound) for bound in np.percentile(ratios, (tail, 100 - tail)))
    margin = max(EQUAL, _drift_factor(times_ms), _drift_factor(baseline_ms))
    answer: Literal["faster", "slower", "equal"] = "equal"
    if high < 1 / margin:
        answer = "faster"
    elif low > margin:
        answer = "slower"
    return Comparison(
        answer=answer,
        ratio=ratio,
        low=low,
        high=high,
        margin=margin,
        median_ms=float(np.median(mine)),
        baseline_ms=float(np.median(theirs)),
    )


def _drift_factor(times: Sequence[float]) -> float:
    """Return the drift as a factor of at least 1, the same for calls that become twice as fast and twice as slow."""
    grown = 1 + drift(times)
    return max(grown, 1 / grown)


def _thinned(times: Sequence[float]) -> np.ndarray:
    values = np.asarray(times, np.float64)
    return values[:: -(-len(values) // _MOST_CALLS)]


def _medians(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the median of each resample; blocks wrap around the end of the run."""
    count = len(times)
    block = max(round(count ** (1 / 3)), count // _BLOCKS, 1)
    offsets = np.arange(block)
    medians = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        starts = rng.integers(0, count, -(-count // block))
        drawn = (starts[:, None] + offsets).ravel()[:count] % count
        medians[index] = np.median(times[drawn])
    return medians
