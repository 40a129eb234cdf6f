"""The histogram of the magnitudes in a tensor, with one bin for each bf16 value, so that no range has to be chosen."""

import numpy as np
import torch

_CODES = 1 << 15
"""Number of bf16 codes without sign: 8 bits of exponent, 7 of mantissa; bins are 0.4 % wide, from 1e-38 to 3e38."""
_SLACK = 1e-12
"""Relative rounding error of ``share * total``: 99.9 / 100 is a little above 0.999, which must not raise the rank."""
_INFINITY = 0x7F80
"""Smallest code that is not a finite number."""


def _values() -> np.ndarray:
    codes = np.arange(_INFINITY, dtype=np.uint32) << 16
    return codes.view(np.float32).astype(np.float64)


VALUES = _values()
"""Magnitude of every finite code in ascending order, ``[32640]``."""


class Magnitudes:
    """Counts of ``|x|``; they are exact, so that merging parts in any order gives the counts of one run over all."""

    def __init__(self, counts: np.ndarray | None = None) -> None:
        self.counts = np.zeros(_INFINITY, np.int64) if counts is None else counts

    def add(self, x: torch.Tensor) -> None:
        """Count the finite values of `x`, which may have any shape."""
        codes = x.detach().to(torch.bfloat16).contiguous().view(torch.int16).flatten() & 0x7FFF
        self.counts += torch.bincount(codes.int(), minlength=_CODES)[:_INFINITY].numpy()

    def merge(self, other: "Magnitudes") -> None:
        """Add the counts of `other`."""
        self.counts = self.counts + other.counts

    @property
    def total(self) -> int:
        """Number of values that were counted."""
        return int(self.counts.sum())

    @property
    def largest(self) -> float:
        """Largest magnitude that was counted; 0 if none was."""
        seen = np.flatnonzero(self.counts)
        return float(VALUES[seen[-1]]) if seen.size else 0.0

    def quantile(self, share: float) -> float:
        """Return the smallest magnitude that at least `share` of all values do not exceed."""
        if self.total == 0:
            return 0.0
        rank = max(1, int(np.ceil(share * self.total * (1 - _SLACK))))
        return float(VALUES[int(np.searchsorted(np.cumsum(self.counts), rank))])

    def share_above(self, limit: float) -> float:
        """Return the share of values above `limit` in bf16, which are those that clipping at `limit` changes."""
        code = int(torch.tensor(limit).to(torch.bfloat16).view(torch.int16))
        return float(self.counts[code + 1 :].sum()) / max(1, self.total)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the magnitudes that occur and their counts, both ``[K]``."""
        codes = np.flatnonzero(self.counts)
        return VALUES[codes], self.counts[codes]
