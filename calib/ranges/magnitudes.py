"""How often each magnitude occurs in a tensor: a histogram with one bin per bf16 value, so that no range is chosen."""

import numpy as np
import torch

_CODES = 1 << 15
"""bf16 without its sign: 8 bits of exponent, 7 of mantissa, 0.4 % wide bins from 1e-38 to 3e38."""
_SLACK = 1e-12
"""Below this, ``share * total`` exceeds a whole number only by its own rounding: 99.9 / 100 is a little above 0.999."""
_INFINITY = 0x7F80
"""First code that is no finite number."""


def _values() -> np.ndarray:
    codes = np.arange(_INFINITY, dtype=np.uint32) << 16
    return codes.view(np.float32).astype(np.float64)


VALUES = _values()
"""Magnitude of every finite code, rising, ``[32640]``."""


class Magnitudes:
    """Counts of ``|x|``. Adding is exact, so shards merge in any order to what one run would have counted."""

    def __init__(self, counts: np.ndarray | None = None) -> None:
        self.counts = np.zeros(_INFINITY, np.int64) if counts is None else counts

    def add(self, x: torch.Tensor) -> None:
        """Count the finite values of `x`, any shape."""
        codes = x.detach().to(torch.bfloat16).contiguous().view(torch.int16).flatten() & 0x7FFF
        self.counts += torch.bincount(codes.int(), minlength=_CODES)[:_INFINITY].numpy()

    def merge(self, other: "Magnitudes") -> None:
        """Add the counts of `other`."""
        self.counts = self.counts + other.counts

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def largest(self) -> float:
        """Largest magnitude seen, 0 if none was."""
        seen = np.flatnonzero(self.counts)
        return float(VALUES[seen[-1]]) if seen.size else 0.0

    def quantile(self, share: float) -> float:
        """Return the smallest magnitude that at least `share` of all values do not exceed."""
        if self.total == 0:
            return 0.0
        rank = max(1, int(np.ceil(share * self.total * (1 - _SLACK))))
        return float(VALUES[int(np.searchsorted(np.cumsum(self.counts), rank))])

    def share_above(self, limit: float) -> float:
        """Return the share of values that exceed `limit` in bf16: what clipping there would touch."""
        code = int(torch.tensor(limit).to(torch.bfloat16).view(torch.int16))
        return float(self.counts[code + 1 :].sum()) / max(1, self.total)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the magnitudes that occur and how often, both ``[K]``."""
        codes = np.flatnonzero(self.counts)
        return VALUES[codes], self.counts[codes]
