"""Charts of the quantization report as inline SVG: lines, heat maps, bars and columns, coloured by the page's CSS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from internvl_edge.calib.report.axes import Axis, linear_range, log_range, number

HEAT_EDGES = (1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0)
"""Ratios at which the colour of the heat map changes, about evenly on a log scale; above 100 a channel is massive."""

_CHARACTER = 6.7
"""Width in pixels of a character of the label font, 11 px monospace."""
_LONGEST_LABEL = 56
_LONGEST_NOTE = 72
_HOT = 10.0
"""Smallest ratio of a cell that has a hover text of its own."""
_HOTTEST = 150
"""Largest number of such cells in a map, so that the page stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a chart; `style` is the CSS class of its colour."""

    name: str
    style: str
    points: Mapping[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """A chart of lines over blocks or samples."""

    title: str
    series: Sequence[Series]
    y_label: str
    x_label: str = "block"
    y_range: tuple[float, float] | None = None
    """Lowest and highest value of the y axis; None: chosen from the values."""
    log: bool = True
    marked: Mapping[float, str] | None = None
    """Value of x that is marked with a triangle -> reason."""
    limit: tuple[float, str] | None = None
    """A value that must not be reached, and its name."""
    width: int = 304
    height: int = 186


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar, with the text to its left, the text after it and its hover text."""

    label: str
    value: float
    note: str
    hover: str
    style: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """A chart of horizontal bars, the first on top."""

    bars: Sequence[Bar]
    label: str
    log: bool = False
    largest: float = float("inf")
    """Value at which longer bars are cut; their text has the true value."""


def line_chart(chart: LineChart) -> Markup:
    """Return a chart of lines, with a dot for each value and a hover text for each x."""
    xs = sorted({x for line in chart.series for x in line.points})
    values = [y for line in chart.series for y in line.points.values()]
    low, high = chart.y_range or (log_range(values) if chart.log else linear_range(values))
    left, top, right, bottom = 48, 22, chart.width - 10, chart.height - 34
    x_low, x_high = (xs[0], xs[-1]) if xs else (0.0, 1.0)
    pad = (right - left) / (2 * max(len(xs), 1))
    x_axis = Axis(low=x_low, high=x_high if x_high > x_low else x_low + 1, start=left + pad, end=right - pad)
    y_axis = Axis(low=low, high=high, start=bottom, end=top, log=chart.log)
    parts = [
        _text(4, 12, chart.title, "t"),
        *_y_grid(y_axis, left, right, chart.y_label),
        *_x_ticks(x_axis, bottom, [v for v in x_axis.ticks(6) if v == int(v) and x_low <= v <= x_high]),
        _text((left + right) / 2, chart.height - 4, chart.x_label, "m"),
    ]
    if chart.limit is not None:
        y = y_axis.at(chart.limit[0])
        parts.append(Markup('<path class="limit" d="M{} {:.1f}H{}"/>').format(left, y, right))
        parts.append(_text(right - 4, y - 4, chart.limit[1], "e bad"))
    for line in chart.series:
        points = [(x_axis.at(x), y_axis.at(y)) for x, y in sorted(line.points.items())]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points) if len(points) <= 64 else ""
        parts.append(
            Markup('<path class="l {0}" d="{1}"/><path class="d {0}" d="{2}"/>').format(line.style, path, dots)
        )
    marked = chart.marked or {}
    for x in marked:
        parts.append(Markup('<path class="mark" d="M{:.1f} {}l-4 7h8z"/>').format(x_axis.at(x), bottom - 7))
    for x in xs:
        lines = [f"{chart.x_label} {number(x)}"]
        lines += [f"{line.name}: {number(line.points[x])}" for line in chart.series if x in line.points]
        lines += [f"kept high: {marked[x]}"] if x in marked else []
        parts.append(_hit(x_axis.at(x) - pad, top, 2 * pad, bottom - top, "\n".join(lines)))
    return _svg(chart.width, chart.height, chart.title, parts)


def heat_map(title: str, rows: Mapping[int, Sequence[float]], hovers: Mapping[int, str]) -> Markup:
    """Return a map of blocks x channel groups, coloured by the ratio in each cell.

    Args:
        title: Name of the graph.
        rows: Block -> largest channel of each group over the median channel.
        hovers: Block -> text to show over its row.
    """
    columns = max((len(row) for row in rows.values()), default=1)
    left, top, cell, tall = 46, 22, 512 / columns, 12 if len(rows) <= 32 else 10
    right, bottom = left + 512, top + tall * len(rows)
    paths: dict[int, list[str]] = {}
    hits: list[Markup] = []
    hot: list[tuple[float, float, float, str]] = []
    labels: list[Markup] = []
    every = max(1, -(-len(rows) // 16))
    for i, (block, row) in enumerate(rows.items()):
        y = top + i * tall
        for start, end, level in _runs([_level(ratio) for ratio in row]):
            width = (end - start) * cell
            paths.setdefault(level, []).append(f"M{left + start * cell:.6g} {y}h{width:.6g}v{tall}h-{width:.6g}z")
        if i % every == 0:
            labels.append(_text(left - 6, y + tall - 2, str(block), "e"))
        hits.append(_hit(left, y, 512, tall, f"block {block}\n{hovers.get(block, '')}"))
        hot += [(r, left + c * cell, y, f"block {block}, group {c}") for c, r in enumerate(row) if r >= _HOT]
    for ratio, x, place, where in sorted(hot, reverse=True)[:_HOTTEST]:
        hits.append(_hit(x, place, cell, tall, f"{where}: {number(ratio)} × the median channel"))
    axis = Axis(low=0, high=columns, start=left, end=right)
    parts = [
        _text(4, 12, title, "t"),
        *labels,
        _turned(10, (top + bottom) / 2, "block"),
        *_x_ticks(axis, bottom, [v for v in axis.ticks(8) if v == int(v)]),
        _text((left + right) / 2, bottom + 30, "channel group", "m"),
        *(Markup('<path class="h{}" d="{}"/>').format(level, "".join(found)) for level, found in sorted(paths.items())),
        *hits,
    ]
    return _svg(right + 10, int(bottom) + 36, title, parts)


def bar_chart(chart: BarChart) -> Markup:
    """Return a chart of horizontal bars, with the note of each after it."""
    labels = [_shortened(bar.label, _LONGEST_LABEL) for bar in chart.bars]
    left = 14 + _CHARACTER * max((len(label) for label in labels), default=0)
    top, tall, right = 20, 19, left + 420
    bottom = top + tall * len(chart.bars)
    values = [min(bar.value, chart.largest) for bar in chart.bars]
    low, high = log_range(values) if chart.log else linear_range(values)
    low = low / 10 if chart.log else low  # so that the smallest bar is one
    axis = Axis(low=low, high=high, start=left, end=right, log=chart.log)
    parts = [
        *(_line(axis.at(v), top, axis.at(v), bottom) for v in axis.ticks()),
        *_x_ticks(axis, bottom, axis.ticks()),
        _text((left + right) / 2, bottom + 31, chart.label, "m"),
    ]
    zero = axis.at(low if chart.log else 0.0)
    longest_note = 0
    for i, (bar, label, value) in enumerate(zip(chart.bars, labels, values, strict=True)):
        y, end = top + i * tall, axis.at(value)
        note = _shortened(bar.note, _LONGEST_NOTE)
        longest_note = max(longest_note, len(note))
        shape = Markup('<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>')
        parts += [
            _text(left - 8, y + 13, label, "e c"),
            shape.format(bar.style, min(zero, end), y + 3, max(abs(end - zero), 1), tall - 6),
            _text(max(zero, end) + 6, y + 13, note, "c"),
            _hit(0, y, right, tall, bar.hover),
        ]
    return _svg(int(right + 16 + _CHARACTER * longest_note), bottom + 38, chart.label, parts)


def column_chart(
    title: str, groups: Mapping[int, Sequence[Bar]], label: str, value_range: tuple[float, float]
) -> Markup:
    """Return a chart of thin columns on a log scale, with those of a block side by side; a value of 0 has no column.

    Args:
        title: Name of the graph.
        groups: Block -> its bars, of which value, hover text and style are used.
        label: What the y axis shows.
        value_range: Lowest and highest value drawn.
    """
    width, height, left, top = 1180, 132, 62, 22
    right, bottom = width - 10, height - 34
    axis = Axis(low=value_range[0], high=value_range[1], start=bottom, end=top, log=True)
    step = (right - left) / max(len(groups), 1)
    every = max(1, -(-len(groups) // 32))
    parts = [_text(4, 12, title, "t"), *_y_grid(axis, left, right, label, 4)]
    for i, (block, bars) in enumerate(groups.items()):
        start = left + i * step + 0.08 * step
        thick = min(0.84 * step / max(len(bars), 1), 14)
        if i % every == 0:
            parts.append(_text(left + (i + 0.5) * step, bottom + 14, str(block), "m"))
        for j, bar in enumerate(bars):
            if bar.value <= 0:
                continue
            y = min(axis.at(bar.value), bottom - 1.0)
            shape = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>')
            x = start + j * thick
            parts.append(shape.format(bar.style, x, y, thick * 0.9, bottom - y, _hover(bar.hover)))
    parts.append(_line(left, bottom, right, bottom))
    parts.append(_text((left + right) / 2, height - 4, "block", "m"))
    return _svg(width, height, title, parts)


def _runs(levels: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return ``(start, end, level)`` of each run of neighbours with the same level."""
    found: list[tuple[int, int, int]] = []
    for i, level in enumerate(levels):
        if found and found[-1][2] == level:
            found[-1] = (found[-1][0], i + 1, level)
        else:
            found.append((i, i + 1, level))
    return found


def _level(ratio: float) -> int:
    return sum(ratio >= edge for edge in HEAT_EDGES)


def _y_grid(axis: Axis, left: float, right: float, label: str, count: int = 6) -> list[Markup]:
    found = []
    for value in axis.ticks(count):
        y = axis.at(value)
        found += [_line(left, y, right, y), _text(left - 5, y + 4, number(value), "e")]
    return [*found, _turned(10, (axis.start + axis.end) / 2, label)]


def _x_ticks(axis: Axis, bottom: float, values: Sequence[float]) -> list[Markup]:
    return [_text(axis.at(value), bottom + 14, number(value), "m") for value in values]


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, text)


def _turned(x: float, y: float, text: str) -> Markup:
    return Markup('<text class="m" transform="translate({} {:.1f}) rotate(-90)">{}</text>').format(x, y, text)


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<path class="g" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(x1, y1, x2, y2)


def _hit(x: float, y: float, width: float, height: float, hover: str) -> Markup:
    shape = Markup('<rect class="hit" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>')
    return shape.format(x, y, width, height, _hover(hover))


def _hover(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _shortened(text: str, longest: int) -> str:
    """Return `text` without its middle if it is too long: start and end of a module path matter most."""
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[len(text) - longest // 2 + 1 :]}"


def _svg(width: int, height: int, label: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">')
    return head.format(width, height, label) + Markup("").join(parts) + Markup("</svg>")
