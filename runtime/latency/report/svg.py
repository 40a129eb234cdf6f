"""Small charts as inline SVG; the page's style sheet gives their colours."""

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH = 640
_HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 200, 44, 12, 34, 18
_MOST_BINS, _FEWEST_BINS = 60, 8
_MOST_POINTS = 500


def histogram(times_ms: Sequence[float], marks: Sequence[tuple[str, float]]) -> str:
    """Return a histogram of latencies with marks at named values; the slowest 0.5 % are joined in the last bar."""
    times = np.asarray(times_ms, np.float64)
    top = float(np.percentile(times, 99.5))
    low = float(times.min())
    top = top if top > low else low + max(low * 1e-3, 1e-6)
    counts, edges = np.histogram(times.clip(max=top), bins=_bins(times, top), range=(low, top))
    plot = _Plot(x=(low, top), y=(0.0, float(counts.max())))
    bars = [
        f'<rect class="bar" x="{plot.x_of(left):.1f}" y="{plot.y_of(count):.1f}"'
        f' width="{max(plot.x_of(right) - plot.x_of(left) - 1, 1):.1f}"'
        f' height="{plot.y_of(0) - plot.y_of(count):.1f}">'
        f"<title>{left:.3f} to {right:.3f} ms: {count} calls</title></rect>"
        for count, left, right in zip(counts, edges, edges[1:], strict=False)
        if count
    ]
    lines = []
    last_end, row = -np.inf, 0
    for name, value in sorted(marks, key=lambda mark: mark[1]):
        place = plot.x_of(min(value, top))
        row = (row + 1) % 2 if place < last_end else 0
        last_end = place + 8 * len(name)
        lines.append(
            f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{plot.y_of(0):.1f}"/>'
            f'<text class="mark" x="{place + 3:.1f}" y="{_TOP + 8 + 12 * row}">{escape(name)}</text>'
        )
    return _svg("Histogram of latencies", [*bars, plot.axes("ms", "calls"), *lines])


def timeline(start_ms: Sequence[float], times_ms: Sequence[float]) -> str:
    """Return a chart of each call's latency over time; long runs are thinned to their extreme values."""
    starts, times = np.asarray(start_ms) / 1e3, np.asarray(times_ms)
    kept = _extremes(times)
    plot = _Plot(x=(0.0, max(float(starts.max()), 1e-6)), y=(0.0, float(times.max()) * 1.05))
    dots = [
        f'<circle class="dot" cx="{plot.x_of(starts[index]):.1f}" cy="{plot.y_of(times[index]):.1f}" r="1.8"/>'
        for index in kept
    ]
    return _svg("Latency over time", [plot.axes("s", "ms"), *dots])


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Return a chart of horizontal bars; each row has a name, a value and a label behind the bar."""
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    height = 20
    parts = []
    for index, (name, value, label) in enumerate(rows):
        y = index * height
        width = max(value / longest * 250, 1.0)
        shown = name if len(name) <= 52 else f"…{name[-51:]}"
        parts.append(
            f'<text class="name e" x="360" y="{y + 14}">{escape(shown)}<title>{escape(name)}</title></text>'
            f'<rect class="bar" x="368" y="{y + 3}" width="{width:.1f}" height="{height - 6}"/>'
            f'<text x="{374 + width:.1f}" y="{y + 14}">{escape(label)}</text>'
        )
    return (
        f'<svg role="img" aria-label="Time of each module" viewBox="0 0 960 {len(rows) * height + 4}"'
        f' width="960" height="{len(rows) * height + 4}">{"".join(parts)}</svg>'
    )


class _Plot:
    """The mapping of values to positions in the chart."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def x_of(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / (high - low or 1.0) * (WIDTH - _LEFT - _RIGHT)

    def y_of(self, value: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (value - low) / (high - low or 1.0) * (_HEIGHT - _BOTTOM - _TOP)

    def axes(self, x_unit: str, y_unit: str) -> str:
        parts = []
        for value in _ticks(*self._x):
            parts.append(
                f'<line class="tick" x1="{self.x_of(value):.1f}" x2="{self.x_of(value):.1f}"'
                f' y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM + 4}"/>'
                f'<text class="m" x="{self.x_of(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}">{value:g}</text>'
            )
        for value in _ticks(*self._y):
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}"'
                f' y1="{self.y_of(value):.1f}" y2="{self.y_of(value):.1f}"/>'
                f'<text class="e" x="{_LEFT - 6}" y="{self.y_of(value) + 4:.1f}">{value:g}</text>'
            )
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="e" x="{WIDTH - _RIGHT}" y="{_HEIGHT - 4}">{x_unit}</text>'
            f'<text class="e" x="{_LEFT - 6}" y="{_TOP - 6}">{y_unit}</text>'
        )
        return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round values from `low` to `high`."""
    rough = (high - low) / 5
    if rough <= 0:
        return [low]
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = np.ceil(low / step - 1e-9)
    count = int(np.floor(high / step + 1e-9) - first) + 1
    return [float(f"{(first + index) * step:.10g}") for index in range(count)]


def _bins(times: np.ndarray, top: float) -> int:
    """Return the number of bins by the rule of Freedman and Diaconis, within limits."""
    first, third = np.percentile(times, (25, 75))
    width = 2 * (third - first) / len(times) ** (1 / 3)
    if width <= 0:
        return _FEWEST_BINS
    return int(np.clip(round((top - times.min()) / width), _FEWEST_BINS, _MOST_BINS))


def _extremes(times: np.ndarray) -> np.ndarray:
    """Return the indices of the smallest and largest value in each of at most `_MOST_POINTS` / 2 intervals."""
    if len(times) <= _MOST_POINTS:
        return np.arange(len(times))
    parts = np.array_split(np.arange(len(times)), _MOST_POINTS // 2)
    found = [index for part in parts for index in (part[times[part].argmin()], part[times[part].argmax()])]
    return np.unique(found)


def _svg(label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {_HEIGHT}" width="{WIDTH}" height="{_HEIGHT}">'
        f"{''.join(parts)}</svg>"
    )
