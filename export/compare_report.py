"""A comparison in words, and as JSON holds it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from internvl_edge.calib.formats import FORMATS
from internvl_edge.export.compare import Comparison, GraphComparison
from internvl_edge.export.differences import Difference, Divergence


def comparison_text(comparison: Comparison) -> str:
    """Return a table of every graph, and at the end where the sides begin to differ and what to do."""
    fed = sorted({graph.fed_by for graph in comparison.graphs if graph.fed_by is not None})
    lines = [
        f"{comparison.a} ({comparison.precision_a}) against {comparison.b} ({comparison.precision_b})",
        f"on {comparison.pictures} pictures of {comparison.data}, {comparison.texts}",
    ]
    if fed:
        lines.append(f"graphs that take outputs of {', '.join(fed)} get those of {comparison.b}: each is judged alone")
    names = [item.name for graph in comparison.graphs for item in (*graph.blocks, *graph.outputs)]
    width = max(map(len, names), default=0)
    for graph in comparison.graphs:
        lines += ["", f"{graph.graph:<{width + 2}}  {'cosine':>10}  {'SQNR dB':>8}  {'max |a-b|':>10}"]
        lines += [_row(item, width, _mark(item, graph)) for item in (*graph.blocks, *graph.outputs)]
        lines += _cache_line(graph.caches)
    return "\n".join([*lines, "", _verdict(comparison)])


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return `comparison` as JSON holds it: an SQNR that is infinite or a value that is no number is null.

    `equal` tells two tensors that do not differ from one with values that are not finite.
    """
    content = asdict(comparison)
    for graph, entry in zip(comparison.graphs, content["graphs"], strict=True):
        for part in ("blocks", "outputs", "caches"):
            entry[part] = [_entry(item) for item in getattr(graph, part)]
        entry["divergence"] = _divergence_entry(graph.divergence)
    return {**content, "first_divergence": _divergence_entry(comparison.first_divergence)}


def _row(item: Difference, width: int, mark: str) -> str:
    return f"  {item.name:<{width}}  {item.cosine:>10.7f}  {item.sqnr_db:>8.1f}  {item.max_abs:>10.3g}{mark}"


def _mark(item: Difference, graph: GraphComparison) -> str:
    found = graph.divergence
    if found is None or item.name not in (found.place, found.steepest):
        return ""
    marks = [f"< {'diverges' if found.below else 'largest drop'}"] if item.name == found.place else ["< largest drop"]
    return f"  {marks[0]}"


def _cache_line(caches: Sequence[Difference]) -> Iterator[str]:
    if caches:
        worst = min(caches, key=lambda item: item.sqnr_db)
        yield f"  {len(caches)} caches, for information: lowest SQNR {worst.sqnr_db:.1f} dB in {worst.name}"


def _verdict(comparison: Comparison) -> str:
    found = comparison.first_divergence
    threshold = f"{comparison.threshold_db:g} dB"
    if found is None:
        every = [(item, graph.graph) for graph in comparison.graphs for item in (*graph.blocks, *graph.outputs)]
        item, graph = min(every, key=lambda pair: pair[0].sqnr_db)
        return f"no divergence: nothing falls below {threshold}; the lowest is {item.sqnr_db:.1f} dB in {graph} {item.name}"
    drop = f"{found.drop_db:.1f} dB at {found.steepest}"
    if not found.below:
        what = (
            f"nothing falls below {threshold}; the largest drop is {drop} of {found.graph}, to {found.sqnr_db:.1f} dB"
        )
        return f"{what}: if accuracy is lost, {_remedy(found, comparison.precision_a)}"
    what = f"first divergence: {found.graph} falls below {threshold} at {found.place} ({found.sqnr_db:.1f} dB)"
    if found.steepest not in (None, found.place):
        what += f", with the largest drop of a block up to there {drop}"
    return f"{what}; {_remedy(found, comparison.precision_a)}"


def _remedy(found: Divergence, precision: str) -> str:
    if precision not in FORMATS:
        return f"nothing of a {precision} bundle is quantized: export it again, or with a wider --dtype"
    if not found.keep_high:
        return "no linear between the last block and it is quantized: export the bundle again"
    patterns = " ".join(f"--keep-high '{pattern}'" for pattern in found.keep_high)
    return f"keep it in high precision with {patterns}"


def _entry(item: Difference) -> dict[str, Any]:
    values = {key: value if _is_finite(value) else None for key, value in asdict(item).items()}
    return {**values, "equal": item.sqnr_db == math.inf}


def _divergence_entry(found: Divergence | None) -> dict[str, Any] | None:
    if found is None:
        return None
    values = {key: value if _is_finite(value) else None for key, value in asdict(found).items()}
    return {**values, "keep_high": list(found.keep_high)}


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
