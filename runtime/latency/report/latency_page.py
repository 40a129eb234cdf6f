"""The HTML page of a run of `bench`: figures, histograms, stages and layers of each case; it needs no network."""

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template

from internvl_edge.runtime.backends.layer_times.layers import LayerTime, ModuleTime, module_times
from internvl_edge.runtime.latency.measure.percentiles import CONFIDENCE, Distribution, Percentile
from internvl_edge.runtime.latency.measure.steady_state import RULE
from internvl_edge.runtime.latency.measure.summary import Summary
from internvl_edge.runtime.latency.report.comparison import Comparison
from internvl_edge.runtime.latency.report.latency_report import (
    STAGE_HEAD,
    Report,
    comparison_text,
    device_text,
    percentile_row,
    stage_rows,
)
from internvl_edge.runtime.latency.report.svg import bars, histogram, timeline
from internvl_edge.runtime.latency.report.trtexec import named_parts

_TEMPLATE = "templates/bench.html"
_MOST_MODULES = 30
_MOST_OPS = 3
_CLASSES = {"faster": "good", "slower": "bad", "equal": "soft"}


def page_html(report: Report) -> str:
    """Return the page of a report."""
    template = Template(files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        bundle=escape(report.bundle),
        precision=escape(report.precision),
        host=escape(_pairs(report.host)),
        stopped='<p class="bad">Stopped by Ctrl-C: cases are missing.</p>' if report.stopped else "",
        overview="\n".join(_overview_row(report, index, case) for index, case in enumerate(report.cases)),
        cases="\n".join(_case(report, index, case) for index, case in enumerate(report.cases)),
        confidence=f"{CONFIDENCE:.0%}",
        rule=escape(RULE),
    )


def _overview_row(report: Report, index: int, case: Summary) -> str:
    last = case.host.percentiles[-1]
    cells = [
        f'<a href="#case{index}">{escape(case.title)}</a>',
        f"{case.host.median_ms:.3f}",
        _median_interval(case.host),
        f"p{last.percent:g} {last.value_ms:.3f}",
        f"{case.rows_per_s:.1f}",
        f"{case.measured.open_ms:.1f}",
        f"{case.measured.first_ms:.2f}",
        f"{case.host.variation_percent:.1f} %",
    ]
    return f"<tr>{_cells(cells)}<td class=l>{_comparison(report.comparison_of(case))}</td></tr>"


def _case(report: Report, index: int, case: Summary) -> str:
    measured = case.measured
    times = case.host_ms
    marks = [(f"p{item.percent:g}", item.value_ms) for item in case.host.percentiles]
    sections = [
        f'<h2 id="case{index}">{escape(case.title)}</h2>',
        f'<p class="soft">{escape(measured.shape)}</p>',
        f'<p class="settings">{escape(_pairs(measured.settings))}</p>',
        f'<div class="answers">{"".join(_figures(report, case))}</div>',
        _notes(report, case),
        '<div class="parts">',
        _part("Latency", histogram(times, marks)),
        _part(
            "Percentiles", _table(("", "ms", "from", "to"), [percentile_row(item) for item in case.host.percentiles])
        ),
        _part("Over time", timeline([call.host.start_ms for call in measured.calls], times)),
        _part("Stages, per call", _table(STAGE_HEAD, stage_rows(case))) if case.stages else "",
        _part("Parts of a call", _table(_PART_HEAD, _part_rows(case))),
        "</div>",
        _layers(case.layers),
    ]
    return "\n".join(section for section in sections if section)


_PART_HEAD = ("", "min ms", "median ms", "mean ms", "max ms")


def _part_rows(case: Summary) -> list[tuple[str, ...]]:
    return [
        (name, *(f"{value:.3f}" for value in (times.min_ms, times.median_ms, times.mean_ms, times.max_ms)))
        for name, times in named_parts(case).items()
    ]


def _figures(report: Report, case: Summary) -> Iterator[str]:
    measured = case.measured
    yield _figure(
        "How long does a call take?", f"{case.host.median_ms:.3f} ms", f"{_median_interval(case.host)}, median"
    )
    yield _figure("How much in a second?", f"{case.rows_per_s:.1f}", f"{case.throughput_qps:.1f} calls")
    yield _figure("And the first time?", f"{measured.first_ms:.2f} ms", f"after {measured.open_ms:.1f} ms to open")
    warm_up = measured.warm_up
    state = "yes" if warm_up.steady else '<span class="bad">not yet</span>'
    yield _figure("Is it steady?", state, f"{warm_up.calls} calls, {warm_up.seconds:.1f} s of warm-up")
    if case.board is not None and case.board.joule_per_row is not None:
        yield _figure("What energy?", f"{case.board.joule_per_row * 1e3:.1f} mJ", f"a row, {case.board.power_w:.1f} W")
    if (found := report.comparison_of(case)) is not None:
        yield _figure("Against the baseline?", _comparison(found), f"{found.baseline_ms:.3f} ms then")


def _figure(question: str, answer: str, more: str) -> str:
    return f"<div>{escape(question)}<b>{answer}</b>{escape(more)}</div>"


def _notes(report: Report, case: Summary) -> str:
    notes = [*case.notes]
    if case.board is not None:
        notes.append(device_text(case.board))
    if (found := report.comparison_of(case)) is not None:
        notes.append(f"against the baseline: {comparison_text(found)}")
        notes += [f"changed since the baseline: {change}" for change in report.changed_settings(case)]
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _layers(layers: Sequence[LayerTime]) -> str:
    if not layers:
        return ""
    modules = module_times(layers)
    shown = modules[:_MOST_MODULES]
    rows = [(module.path, module.mean_ms, _module_label(module)) for module in shown]
    rest = f", the {len(shown)} longest of {len(modules)}" if len(modules) > len(shown) else ""
    table = _table(
        ("layer", "kind", "module", "mean ms", "median ms"),
        [
            (layer.name, layer.kind, layer.path, f"{layer.mean_ms:.4f}", f"{layer.median_ms:.4f}")
            for layer in sorted(layers, key=lambda layer: -layer.mean_ms)
        ],
    )
    return (
        f'<h3>Modules by time{rest}</h3><div class="wide">{bars(rows)}</div>'
        f'<details><summary>All {len(layers)} layers</summary><div class="wide">{table}</div></details>'
    )


def _module_label(module: ModuleTime) -> str:
    more = ", …" if len(module.ops) > _MOST_OPS else ""
    return f"{module.mean_ms:.3f} ms, {module.share:.1%}  {', '.join(module.ops[:_MOST_OPS])}{more}"


def _comparison(found: Comparison | None) -> str:
    if found is None:
        return ""
    return f'<span class="{_CLASSES[found.answer]}">{found.answer}, x {found.ratio:.3f}</span>'


def _median_interval(times: Distribution) -> str:
    found = next((item for item in times.percentiles if item.percent == 50), None)
    return "" if found is None else _interval(found)


def _interval(item: Percentile) -> str:
    low, high = ("-" if bound is None else f"{bound:.3f}" for bound in (item.low_ms, item.high_ms))
    return f"{low} to {high}"


def _part(title: str, content: str) -> str:
    return f"<div><h3>{escape(title)}</h3>{content}</div>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join(f"<tr>{_cells([escape(cell) for cell in row])}</tr>" for row in rows)
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _pairs(values: object) -> str:
    return ", ".join(f"{name} {value}" for name, value in dict(values).items())  # type: ignore[call-overload]
