"""The quantization report as one HTML page that opens offline: results first, then charts, then every site."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from internvl_edge.calib.report.axes import log_range, number, percent
from internvl_edge.calib.report.charts import (
    Bar,
    BarChart,
    LineChart,
    Series,
    bar_chart,
    column_chart,
    heat_map,
    line_chart,
)
from internvl_edge.runtime.numbers.tensor_types import FLOAT16

Entry = Mapping[str, Any]

_RANKED = 24
"""Number of sites in the chart of sensitivity; the table has all sites."""
_MOVED = 6
"""Number of sites in the chart of convergence, those whose range changed most in the second half of the samples."""


def render_html(report: Mapping[str, Any]) -> str:
    """Return the page of a report that `build_report` returned."""
    environment = Environment(
        loader=PackageLoader("internvl_edge.calib.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent}
    return environment.get_template("quantization.html").render(
        report=report,
        ranges=list(_ranges(report["sites"])),
        maps=[heat_map(graph, *_heat(graph, report)) for graph in report["channel_map"]],
        residual=list(_residual(report["residual"])),
        clipped=list(_clipped(report["sites"])),
        sensitivity=_sensitivity(report["sensitivity"]),
        convergence=_convergence(report["sites"]),
        high=_by_name(site for site in report["sites"] if site["placement"] == "high"),
        massive=[entry for entry in report["residual"] if entry["massive_channels"]],
        quantized=len(_by_name(site for site in report["sites"] if site["placement"] == "quantized")),
        total=len(_by_name(report["sites"])),
    )


def _by_name(sites: Iterable[Entry]) -> list[Entry]:
    """Return one entry for each site, that of the graph with the lowest SQNR."""
    found: dict[str, Entry] = {}
    for site in sites:
        if site["name"] not in found or site["sqnr_db"] < found[site["name"]]["sqnr_db"]:
            found[site["name"]] = site
    return list(found.values())


def _groups(entries: Sequence[Entry], *keys: str) -> Iterable[tuple[tuple[Any, ...], list[Entry]]]:
    def key(entry: Entry) -> tuple[Any, ...]:
        return tuple(entry[name] for name in keys)

    for found, group in groupby(sorted(entries, key=key), key):
        yield found, sorted(group, key=lambda entry: entry["block"])


def _ranges(sites: Sequence[Entry]) -> Iterable[Markup]:
    """Yield a chart for each graph and kind of site: largest value before and after smoothing, threshold, median."""
    lines = {"as measured": "amax", "smoothed": "smoothed_amax", "clip": "threshold", "median": "median_channel_amax"}
    for (graph, kind), group in _groups(sites, "graph", "kind"):
        series = [
            Series(name=name, style=f"s{i}", points={s["block"]: s[key] for s in group if _drawable(s[key])})
            for i, (name, key) in enumerate(lines.items(), start=1)
        ]
        marked = {s["block"]: s["reason"] for s in group if s["placement"] == "high"}
        yield line_chart(LineChart(title=f"{graph}: {kind}", series=series, y_label="magnitude", marked=marked))


def _heat(graph: str, report: Mapping[str, Any]) -> tuple[dict[int, list[float]], dict[int, str]]:
    blocks = [entry for entry in report["residual"] if entry["graph"] == graph]
    rows = dict(zip([entry["block"] for entry in blocks], report["channel_map"][graph], strict=False))
    hovers = {
        entry["block"]: f"largest {number(entry['amax'])}, median channel {number(entry['median'])}\n"
        f"largest token {number(entry['massive_tokens'])} x the median token"
        for entry in blocks
    }
    return dict(sorted(rows.items())), hovers


def _residual(entries: Sequence[Entry]) -> Iterable[Markup]:
    for (graph,), group in _groups(entries, "graph"):
        series = [
            Series(name=name, style=style, points={e["block"]: e[key] for e in group if _drawable(e[key])})
            for name, style, key in (("largest", "s1", "amax"), ("median channel", "s4", "median"))
        ]
        yield line_chart(
            LineChart(
                title=f"{graph}: residual stream",
                series=series,
                y_label="magnitude",
                limit=(FLOAT16.largest, FLOAT16.short),
            )
        )


def _clipped(sites: Sequence[Entry]) -> Iterable[Markup]:
    shares = [site["clipped_share"] for site in sites if site["clipped_share"] > 0]
    for (graph,), group in _groups(sites, "graph"):
        bars: dict[int, list[Bar]] = {}
        for site in group:
            hover = f"{site['name']}\n{percent(site['clipped_share'])} % clipped by {site['method']}"
            bar = Bar(label=site["name"], value=site["clipped_share"], note="", hover=hover, style="b1")
            bars.setdefault(site["block"], []).append(bar)
        yield column_chart(graph, bars, "share", log_range(shares))


def _sensitivity(entries: Sequence[Entry]) -> Markup | None:
    if not entries:
        return None
    bars = [
        Bar(
            label=entry["site"],
            value=entry["sqnr_db"],
            note=f"{number(entry['sqnr_db'])} dB in {entry['graph']}" + (", kept high" if entry["kept_high"] else ""),
            hover=entry["site"],
            style="b2" if entry["kept_high"] else "b1",
        )
        for entry in entries[:_RANKED]
    ]
    return bar_chart(BarChart(bars=bars, label="SQNR of the tower's output in dB; shorter is worse"))


def _convergence(sites: Sequence[Entry]) -> Markup | None:
    """Return a chart of the ranges that changed most in the second half of the samples, over their final value."""
    curves = {f"{s['graph']} {s['name']}": s["convergence"] for s in sites if len(s["convergence"]) > 1}
    moved = sorted(curves, key=lambda name: curves[name][(len(curves[name]) - 1) // 2] / max(curves[name][-1], 1e-30))
    if not moved:
        return None
    series = [
        Series(
            name=name,
            style=f"s{1 + index % 6}",
            points={step + 1: value / max(curves[name][-1], 1e-30) for step, value in enumerate(curves[name])},
        )
        for index, name in enumerate(moved[:_MOVED])
    ]
    chart = LineChart(title="", series=series, y_label="of the last", x_label="batch", y_range=(0.0, 1.05), log=False)
    legend = Markup("<ul class=legend>{}</ul>").format(
        Markup("").join(Markup('<li class="k{}">{}</li>').format(line.style, line.name) for line in series)
    )
    return line_chart(chart) + legend


def _drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0
