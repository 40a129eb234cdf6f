"""An SVG picture of a block's kernels: order from top to bottom, bytes as widths, categories as colours."""

from collections.abc import Sequence

from internvl_edge.runtime.inspect.xray.markup import Markup, filled, joined
from internvl_edge.runtime.inspect.xray.text import duration, size, work, works_for
from internvl_edge.runtime.inspect.xray.xray_report import Kernel

WIDTH = 1180
_ROW = 46
_BAR_X = 470
_BAR_WIDTH = 460
_TIME_X = WIDTH - 12
_MARK_X = 452
_OPERATIONS = 58
_TITLE = 50
"""Number of characters that fit before the marks and bars."""


def block_picture(kernels: Sequence[Kernel], block: str) -> Markup:
    """Return the picture of `kernels`; the kernel that moves most bytes has the widest bar."""
    largest = max((kernel.bytes or 0 for kernel in kernels), default=0) or 1
    height = _ROW * len(kernels) + 34
    parts = [
        filled('<line class="g" x1="24" y1="40" x2="24" y2="{}"/>', height - 28),
        filled('<text x="{}" y="18">bytes: weights, activations read, written</text>', _BAR_X),
        filled('<text class="e" x="{}" y="18">predicted, bound by</text>', _TIME_X),
        *(_row(kernel, place, largest, block) for place, kernel in enumerate(kernels)),
    ]
    return _svg(f"Kernels of {block or 'the graph'}, in order", height, parts)


def time_picture(kernels: Sequence[Kernel]) -> Markup | None:
    """Return one bar of the whole predicted time, with a part for each kernel; None without predictions."""
    times = [(kernel, kernel.predicted_ms) for kernel in kernels if kernel.predicted_ms]
    total = sum(predicted for _, predicted in times)
    if not total:
        return None
    parts, x = [], 0.0
    for kernel, predicted in times:
        width = predicted / total * WIDTH
        parts.append(
            filled(
                '<g><title>{}</title><rect class="c-{} p" x="{:.2f}" y="0" width="{:.2f}" height="40"/>',
                _hover(kernel),
                kernel.category,
                x,
                width,
            )
        )
        if width > 76:
            parts.append(filled('<text class="on m" x="{:.1f}" y="25">{}</text>', x + width / 2, _short(kernel)))
        parts.append(Markup("</g>"))
        x += width
    return _svg("Predicted time of the kernels, in order", 40, parts)


def _row(kernel: Kernel, place: int, largest: int, block: str) -> Markup:
    y = 34 + place * _ROW
    return filled(
        '<g><title>{hover}</title><rect class="hit" x="0" y="{top}" width="{width}" height="{row}"/>'
        '<circle class="c-{kind}" cx="24" cy="{middle}" r="13"/><text class="on m" x="24" y="{digit}">{index}</text>'
        '<text class="t" x="48" y="{first}">{title}</text><text x="48" y="{second}">{operations}</text>'
        '<text class="t e" x="{mark_x}" y="{first}">{marks}</text>'
        "{bars}{time}</g>",
        hover=_hover(kernel),
        top=y,
        width=WIDTH,
        row=_ROW,
        kind=kernel.category,
        middle=y + 19,
        digit=y + 23,
        index=place + 1,
        first=y + 15,
        title=_clipped(works_for(kernel, block), _TITLE),
        second=y + 31,
        operations=_operations(kernel),
        mark_x=_MARK_X,
        marks=_marks(kernel),
        bars=_bars(kernel, y + 8, largest),
        time=_time(kernel, y),
    )


def _bars(kernel: Kernel, y: int, largest: int) -> Markup:
    """Return a bar with weights, activations read and bytes written in three shades, and the sum after it."""
    if kernel.read_bytes is None or kernel.written_bytes is None:
        return filled('<text x="{}" y="{}">not readable</text>', _BAR_X, y + 16)
    weights = kernel.weight_bytes or 0
    shades = {"w": weights, "r": kernel.read_bytes - weights, "o": kernel.written_bytes}
    x, parts = float(_BAR_X), []
    for shade, count in shades.items():
        width = count / largest * _BAR_WIDTH
        if count:
            parts.append(
                filled(
                    '<rect class="c-{} {}" x="{:.2f}" y="{}" width="{:.2f}" height="22"/>',
                    kernel.category,
                    shade,
                    x,
                    y,
                    max(width, 0.6),
                )
            )
        x += width
    bytes_ = ("≤ " if kernel.at_most else "") + size(kernel.bytes)
    parts.append(filled('<text x="{:.1f}" y="{}">{}</text>', x + 7, y + 15, bytes_))
    return joined(parts)


def _time(kernel: Kernel, y: int) -> Markup:
    return filled(
        '<text class="t e" x="{x}" y="{a}">{time}</text><text class="e" x="{x}" y="{b}">{bound}</text>',
        x=_TIME_X,
        a=y + 15,
        b=y + 31,
        time=duration(kernel.predicted_ms),
        bound=_bound(kernel),
    )


def _bound(kernel: Kernel) -> str:
    return f"{kernel.bound}, {work(kernel.flops)} {kernel.dtype}" if kernel.flops else kernel.bound


def _operations(kernel: Kernel) -> str:
    if not kernel.operations:
        return f"{kernel.category}: {kernel.name if kernel.category == 'attention' else kernel.kind.replace('_', ' ')}"
    return _clipped(f"{kernel.category}: {' '.join(kernel.operations)}", _OPERATIONS)


def _marks(kernel: Kernel) -> str:
    """Return the marks of a kernel: Q if it quantizes, DQ if it dequantizes."""
    return " ".join(mark for mark, role in (("DQ", kernel.dequantizes), ("Q", kernel.quantizes)) if role)


def _short(kernel: Kernel) -> str:
    return works_for(kernel, kernel.block).split(" + ")[0].rpartition(".")[2][:11]


def _hover(kernel: Kernel) -> str:
    lines = [
        kernel.name,
        f"reads {size(kernel.read_bytes)} (weights {size(kernel.weight_bytes)}), writes {size(kernel.written_bytes)}",
        f"{work(kernel.flops)} {kernel.dtype}, predicted {duration(kernel.predicted_ms)} {kernel.bound}",
        *kernel.layers,
    ]
    return "\n".join(lines)


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(title: str, height: int, parts: Sequence[Markup]) -> Markup:
    return filled(
        '<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{title}">'
        "{parts}</svg>",
        width=WIDTH,
        height=height,
        title=title,
        parts=joined(parts),
    )
