"""Histograms with fixed bounds, as Prometheus defines them."""

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of latencies, from a cached answer to a long caption."""

FIRST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)
"""Upper bounds of the times to the first piece of an answer, which pictures and a long prompt precede."""
TOKEN_RATES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0)
"""Upper bounds of tokens a second, from a large model on a CPU to a small one on a GPU."""
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Histogram:
    """Counts of values; as in Prometheus, a value is counted at the first bound that is not below it."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """Return the number of values."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Count `value`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulated(self) -> list[tuple[str, float]]:
        """Return the cumulative buckets of Prometheus: (bound, number of values up to it)."""
        names = [*map(str, self.bounds), "+Inf"]
        return [(name, float(sum(self.counts[: index + 1]))) for index, name in enumerate(names)]

    def quantile(self, part: float) -> float | None:
        """Return the smallest bound that `part` of the values do not exceed; None if there is no such bound."""
        reached, wanted = 0, part * self.count
        for bound, count in zip(self.bounds, self.counts, strict=False):
            reached += count
            if reached and reached >= wanted:
                return bound
        return None
