"""When a warm-up is over: the medians of the last windows no longer move.

The rule follows Georges, Buytaert and Eeckhout, "Statistically rigorous Java performance evaluation" (OOPSLA 2007), who
watch the variation of the last k iterations; medians stand for means here, so that one slow call does not restart it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOWS = 3
WINDOW_SECONDS = 0.25
WINDOW_CALLS = 5
TOLERANCE = 0.02
"""As the 2 % of that paper: a clock that still rises or a cache that still fills moves a median by more."""

RULE = f"medians of {WINDOWS} windows of {WINDOW_SECONDS:g} s and {WINDOW_CALLS} calls within {TOLERANCE:.0%}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """What ran before the measurement."""

    calls: int
    seconds: float
    steady: bool
    """False: the time limit ended it."""
    spread: float | None
    """Largest over smallest of the last medians, less 1; None where there were too few windows."""


def spread_of(medians: Sequence[float]) -> float | None:
    """Return how far the last `WINDOWS` medians lie apart, relative to the smallest; None for fewer."""
    last = medians[-WINDOWS:]
    if len(last) < WINDOWS or min(last) <= 0:
        return None
    return max(last) / min(last) - 1


def is_steady(medians: Sequence[float]) -> bool:
    """Whether the last windows agree."""
    spread = spread_of(medians)
    return spread is not None and spread < TOLERANCE


def drift(times_ms: Sequence[float]) -> float:
    """Return how much the median of the last third exceeds that of the first, relative to it; 0 below 9 times."""
    third = len(times_ms) // 3
    if third < 3:
        return 0.0
    first, last = np.median(times_ms[:third]), np.median(times_ms[-third:])
    return float(last / first - 1) if first > 0 else 0.0
