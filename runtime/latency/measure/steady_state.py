"""Detection of the steady state that ends a warm-up: the medians of the last windows of calls agree.

The rule follows Georges, Buytaert and Eeckhout, "Statistically rigorous Java performance evaluation" (OOPSLA 2007), who
use the variation of the last k iterations. Medians replace their means, so that one slow call does not restart it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOWS = 3
"""Number of windows whose medians have to agree."""
WINDOW_SECONDS = 0.25
"""Shortest time of a window."""
WINDOW_CALLS = 5
"""Smallest number of calls in a window."""
TOLERANCE = 0.02
"""Largest relative difference of the medians: 2 %, as in that paper. A rising clock or a cold cache exceeds it."""

RULE = f"medians of {WINDOWS} windows of {WINDOW_SECONDS:g} s and {WINDOW_CALLS} calls within {TOLERANCE:.0%}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """The calls before the measurement."""

    calls: int
    seconds: float
    steady: bool
    """Whether the steady state was reached; if not, the time limit ended the warm-up."""
    spread: float | None
    """Largest of the last medians over the smallest, minus 1; None if there were too few windows."""


def spread_of(medians: Sequence[float]) -> float | None:
    """Return the largest of the last `WINDOWS` medians over the smallest, minus 1; None for fewer medians."""
    last = medians[-WINDOWS:]
    if len(last) < WINDOWS or min(last) <= 0:
        return None
    return max(last) / min(last) - 1


def is_steady(medians: Sequence[float]) -> bool:
    """Return whether the medians of the last windows agree."""
    spread = spread_of(medians)
    return spread is not None and spread < TOLERANCE


def drift(times_ms: Sequence[float]) -> float:
    """Return the median of the last third of the times over that of the first, minus 1; 0 for fewer than 9 times."""
    third = len(times_ms) // 3
    if third < 3:
        return 0.0
    first, last = np.median(times_ms[:third]), np.median(times_ms[-third:])
    return float(last / first - 1) if first > 0 else 0.0
