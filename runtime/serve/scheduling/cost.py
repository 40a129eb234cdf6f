"""How long batches take, learned from those that ran."""

from dataclasses import dataclass

_FADE = 0.95
"""Weight of what was known, for each batch that is learned."""
_SAME = 0.25
"""Variance of rows below which all batches count as of one size: no slope can be told."""


@dataclass(slots=True)
class BatchCost:
    """Seconds of a batch as a line over its rows, fitted to what was observed; the older, the less it counts."""

    weight: float = 0.0
    rows: float = 0.0
    """Sums, weighted: of rows, of seconds, of rows squared, of rows times seconds."""
    seconds: float = 0.0
    rows_squared: float = 0.0
    products: float = 0.0

    def learn(self, rows: int, seconds: float) -> None:
        """Add what one batch took."""
        self.weight = self.weight * _FADE + 1
        self.rows = self.rows * _FADE + rows
        self.seconds = self.seconds * _FADE + seconds
        self.rows_squared = self.rows_squared * _FADE + rows * rows
        self.products = self.products * _FADE + rows * seconds

    def of(self, rows: int) -> float:
        """Return what a batch will take; 0 if none ran yet.

        Where all were of one size, another size is taken to cost the same: a guess that is too low is put right by the
        first batch, one that is too high would refuse the requests that could teach better.
        """
        if not self.weight:
            return 0.0
        mean_rows, mean_seconds = self.rows / self.weight, self.seconds / self.weight
        variance = self.rows_squared / self.weight - mean_rows**2
        if variance < _SAME:
            return mean_seconds
        slope = max((self.products / self.weight - mean_rows * mean_seconds) / variance, 0.0)
        return max(mean_seconds + slope * (rows - mean_rows), 0.0)

    def of_many(self, rows: int, max_batch: int) -> float:
        """Return what `rows` will take in batches as large as may be."""
        whole, rest = divmod(rows, max_batch)
        return whole * self.of(max_batch) + (self.of(rest) if rest else 0.0)
