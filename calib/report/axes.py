"""Axes of the report's charts: from values to pixels, with round ticks and short numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

ROUND_STEPS = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values `low` to `high` drawn from pixel `start` to pixel `end`, which may be the smaller one."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of `value`; a value outside the axis is drawn at its end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Return about `count` or fewer round values from low to high."""
        return _log_ticks(self.low, self.high, count) if self.log else _linear_ticks(self.low, self.high, count)


def linear_range(values: Iterable[float]) -> tuple[float, float]:
    """Return a range that holds 0 and all finite values."""
    found = [v for v in values if math.isfinite(v)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if high > low else (0.0, 1.0)


def log_range(values: Iterable[float]) -> tuple[float, float]:
    """Return round limits around all positive finite values; they are at least a factor of 10 apart."""
    found = [v for v in values if math.isfinite(v) and v > 0]
    low, high = _round_down(min(found, default=0.1)), _round_up(max(found, default=1.0))
    return low, high if high >= 10 * low else _round_up(10 * low)


def number(value: float | None) -> str:
    """Return `value` with about three digits: ``0.0123``, ``12.3``, ``12300``, ``1.2e-5``; a dash if not known."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == 0 or 1e-3 <= size < 1000:
        return f"{value:.3g}" if size < 999.5 else f"{value:.0f}"
    if 1000 <= size < 1e6:
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def percent(share: float | None) -> str:
    """Return `share` of 1 in percent, without the sign."""
    return number(None if share is None else 100 * share)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * s for s in ROUND_STEPS if unit * s >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = last - first
    steps = (1, 2, 5) if 3 * decades <= count else (1, 3) if 2 * decades <= count else (1,)
    stride = max(1, math.ceil(decades / count))
    values = (s * 10.0**e for e in range(first, last + 1, stride) for s in steps)
    return [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]


def _round_down(value: float) -> float:
    unit = 10.0 ** math.floor(math.log10(value))
    return max(s * unit for s in (1, 2, 5) if s == 1 or s * unit <= value * (1 + 1e-9))


def _round_up(value: float) -> float:
    unit = 10.0 ** math.floor(math.log10(value))
    return min(s * unit for s in ROUND_STEPS if s == 10 or s * unit >= value * (1 - 1e-9))
