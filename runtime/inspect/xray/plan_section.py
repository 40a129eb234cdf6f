"""The section of one plan on the page: key figures, the picture of a block, then every kernel."""

from collections.abc import Iterable, Iterator

from internvl_edge.runtime.inspect.plan.launches import CATEGORIES
from internvl_edge.runtime.inspect.xray.markup import Markup, filled, joined
from internvl_edge.runtime.inspect.xray.picture import block_picture, time_picture
from internvl_edge.runtime.inspect.xray.text import (
    attention_answer,
    duration,
    pictured,
    quantization_answer,
    shapes_answer,
    size,
    work,
)
from internvl_edge.runtime.inspect.xray.xray_report import Kernel, PlanXray, Sums

_BARS = """<p class="soft">A bar is what a kernel moves: weights in the full colour, activations read in a lighter \
one, what it writes in the lightest. ≤: it slices
its input and may read less. Q: it turns values into 8 bits; DQ: back. Under each name stand the operations that the \
kernel fuses.</p>
"""
_PREDICTED = """<p class="soft">The larger of FLOPs at the sheet's peak and bytes at its bandwidth, kernel by kernel; \
without launch overhead, and without
the cache, which keeps small tensors from memory.</p>"""
_SUMS = ("block", "launches", "read", "of these weights", "written", "matrix products", "predicted")
_NUMBERS = ("read", "weights", "written", "work", "type", "predicted", "bound")


def plan_section(found: PlanXray, heading: str, *, folded: bool) -> Markup:
    """Return the section of one plan; `heading` is the tag of its headings, and `folded` closes its tables."""
    parts = [
        _introduction(found),
        filled('<p class="bad">Not readable: {}.</p>', "; ".join(found.unreadable)) if found.unreadable else "",
        filled("<ul>{}</ul>", joined(filled("<li>{}</li>", note) for note in found.notes)) if found.notes else "",
    ]
    if found.kernels:
        parts += [_answers(found), *_pictures(found, heading), _high_precision(found, heading)]
        parts += [
            _details("Blocks", heading, folded, _blocks(found)),
            _details(f"All {len(found.kernels)} kernels", heading, folded, _kernels(found)),
        ]
    return joined((Markup(part) for part in parts if part), "\n")


def header_cells(names: Iterable[str]) -> Markup:
    """Return the header cells of a table's columns."""
    return joined(filled('<th scope="col">{}</th>', name) for name in names)


def fused_word(found: PlanXray) -> str:
    """Return ``yes``, ``no`` or ``in part`` for whether attention is fused."""
    return "no" if not found.fused_attention else "in part" if found.unfused_attention else "yes"


def _introduction(found: PlanXray) -> Markup:
    built = f", built for sm_{found.sm}" if found.sm is not None else ""
    said = f"{size(found.plan_bytes)}{built}, seen for {found.target}; read from the plan's bytes, nothing was run."
    if found.shapes:
        counted = f" (profile {found.profile} of {found.profiles}, counted from 0)" if found.profiles > 1 else ""
        said += f" At {shapes_answer(found)}{counted}."
    if found.assumed:
        said += f" Not given, taken as small as the plan allows: {', '.join(found.assumed)}."
    return filled('<p class="soft">{}</p>', said)


def _answers(found: PlanXray) -> Markup:
    middle, total = found.middle, found.total
    launches = f"{middle.launches} a block" if middle is not None else str(total.launches)
    span = "" if middle is None or middle.least == middle.most else f"{middle.least} to {middle.most}"
    narrow = "not readable" if found.quantized_share is None else f"{found.quantized_share * 100:.1f} % of FLOPs"
    sheet = f": {found.source}" if found.source else ""
    answers = (
        (
            "How many launches?",
            launches,
            f"{total.launches} in the whole graph{f'; inner blocks have {span}' * bool(span)}",
        ),
        ("Is attention fused?", fused_word(found), attention_answer(found)),
        ("What is in 8 bits?", narrow, quantization_answer(found)),
        (
            "What does it move?",
            size(total.bytes),
            f"of these {size(total.weight_bytes)} weights; activations take {size(found.activation_bytes)} at the "
            "largest sizes",
        ),
        (
            "How long by the data sheet?",
            duration(total.predicted_ms),
            f"a prediction for {work(total.flops)}, not a measurement{sheet}",
        ),
    )
    return filled(
        '<div class="answers">\n{}</div>\n', joined(filled("<div>{}<b>{}</b>{}</div>\n", *answer) for answer in answers)
    )


def _pictures(found: PlanXray, heading: str) -> Iterator[Markup]:
    """Yield the picture of the representative block, and that of its predicted time."""
    block, kernels = pictured(found)
    used = {kernel.category for kernel in found.kernels}
    legend = joined(filled('<li class="k-{0}">{0}</li>', name) for name in CATEGORIES if name in used)
    yield _head(f"{f'Block {block}' if block else 'The graph'}: {len(kernels)} kernels in order", heading)
    yield filled('<ul class="legend">{}</ul>', legend)
    yield filled('<div class="wide">{}</div>', block_picture(kernels, block))
    yield Markup(_BARS)
    time = time_picture(kernels)
    if time is not None:
        yield _head(f"Where the predicted time of {'this block' if block else 'the graph'} goes", heading)
        yield filled('<div class="wide">{}</div>', time)
        yield Markup(_PREDICTED)


def _high_precision(found: PlanXray, heading: str) -> Markup:
    if not found.high_precision:
        return Markup("")
    shares = ((name, f"{share * 100:.2f} %") for name, share in found.high_precision.items())
    rows = joined(filled("<tr>{}</tr>\n", _cells(cells)) for cells in shares)
    table = _table(("module", "of all FLOPs"), rows)
    return joined((_head("Left in high precision", heading), filled('<div class="wide">{}</div>', table)), "\n")


def _blocks(found: PlanXray) -> Markup:
    rows = joined(_sums(name or "outside of blocks", sums) for name, sums in found.blocks.items())
    return filled('<div class="wide">{}</div>', _table(_SUMS, rows, _sums("whole graph", found.total)))


def _sums(name: str, sums: Sums) -> Markup:
    moved = (size(sums.read_bytes), size(sums.weight_bytes), size(sums.written_bytes))
    cells = (name, sums.launches, *moved, work(sums.flops), duration(sums.predicted_ms))
    return filled("<tr>{}</tr>\n", _cells(cells))


def _kernels(found: PlanXray) -> Markup:
    """Return a table with a row for each kernel, and a field that filters it."""
    marked = any(kernel.quantizes or kernel.dequantizes for kernel in found.kernels)
    numbers = (*_NUMBERS, *(("quantizes", "dequantizes") if marked else ()))
    head = filled(
        '<tr><th scope="col">#</th>{}{}</tr>',
        joined(filled('<th scope="col" class="l">{}</th>', name) for name in ("kernel", "kind", "modules")),
        header_cells(numbers),
    )
    return filled(
        '<label>Filter: <input type="search" placeholder="name, module, kind"></label>\n'
        '<div class="wide"><table class="kernels"><thead>{}</thead><tbody>\n{}</tbody></table></div>',
        head,
        joined(_kernel(kernel, marked) for kernel in found.kernels),
    )


def _kernel(kernel: Kernel, marked: bool) -> Markup:
    read = ("≤ " if kernel.at_most else "") + size(kernel.read_bytes)
    moved = (read, size(kernel.weight_bytes), size(kernel.written_bytes))
    numbers = (*moved, work(kernel.flops), kernel.dtype, duration(kernel.predicted_ms), kernel.bound)
    return filled(
        '<tr><td>{}</td><td class="l" title="{name}">{name}</td><td class="l">{}</td>'
        '<td class="l" title="{}">{}</td>{}</tr>\n',
        kernel.index + 1,
        kernel.category,
        "\n".join(kernel.layers),
        ", ".join(kernel.modules),
        _cells((*numbers, *((kernel.quantizes, kernel.dequantizes) if marked else ()))),
        name=kernel.name,
    )


def _head(text: str, heading: str) -> Markup:
    return filled('<{heading} class="head">{}</{heading}>', text, heading=heading)


def _details(title: str, heading: str, folded: bool, content: Markup) -> Markup:
    opened = "" if folded else Markup(" open")
    return filled("<details{}><summary>{}</summary>\n{}</details>\n", opened, _head(title, heading), content)


def _table(names: Iterable[str], rows: Markup, foot: Markup | None = None) -> Markup:
    head = header_cells(names)
    end = filled("<tfoot>{}</tfoot>", foot) if foot is not None else ""
    return filled("<table><thead><tr>{}</tr></thead><tbody>\n{}</tbody>{}</table>", head, rows, end)


def _cells(values: Iterable[object]) -> Markup:
    return joined(filled("<td>{}</td>", value) for value in values)
