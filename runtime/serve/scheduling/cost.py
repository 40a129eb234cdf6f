"""An estimate of how long batches take, fitted to those that ran."""

from dataclasses import dataclass

_FADE = 0.95
"""Factor of all earlier observations when a batch is added: exponential forgetting, of about the last 20 batches."""
_SAME = 0.25
"""Variance of the number of rows below which all batches count as of one size: no slope can be fitted."""


@dataclass(slots=True)
class BatchCost:
    """Seconds of a batch as a linear function of its rows, fitted to observed batches with exponential forgetting."""

    weight: float = 0.0
    rows: float = 0.0
    """Weighted sum of rows; the fields below: of seconds, of rows squared, of rows times seconds."""
    seconds: float = 0.0
    rows_squared: float = 0.0
    products: float = 0.0

    def learn(self, rows: int, seconds: float) -> None:
        """Add the observed duration of one batch."""
        self.weight = self.weight * _FADE + 1
        self.rows = self.rows * _FADE + rows
        self.seconds = self.seconds * _FADE + seconds
        self.rows_squared = self.rows_squared * _FADE + rows * rows
        self.products = self.products * _FADE + rows * seconds

    def of(self, rows: int) -> float:
        """Return the expected seconds of a batch of `rows` rows; 0 if none ran yet.

        If all batches were of one size, another size is expected to cost the same: an estimate that is too low is
        corrected by the first batch, but one that is too high would refuse the very requests that could correct it.
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
        """Return the expected seconds of `rows` rows in batches of at most `max_batch`."""
        whole, rest = divmod(rows, max_batch)
        return whole * self.of(max_batch) + (self.of(rest) if rest else 0.0)
