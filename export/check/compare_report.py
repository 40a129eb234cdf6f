"""Write a comparison as text and as JSON."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from internvl_edge.export.check.compare import Comparison
from internvl_edge.export.check.differences import Difference, Divergence
from internvl_edge.runtime.numbers.formats import QUANTIZED


def comparison_text(comparison: Comparison) -> str:
    """Return a table for every graph, and a last line with the first divergence and a remedy."""
    fed = list(dict.fromkeys(graph.fed_by for graph in comparison.graphs if graph.fed_by is not None))
    lines = [
        f"{comparison.a} ({comparison.precision_a}) against {comparison.b} ({comparison.precision_b})",
        f"on {comparison.pictures} pictures of {comparison.data}, {comparison.texts}",
    ]
    if fed:
        lines.append(
            f"graphs that take outputs of {', '.join(fed)} get those of {comparison.b}: each is compared alone"
        )
    names = [item.name for graph in comparison.graphs for item in (*graph.blocks, *graph.outputs)]
    width = max(map(len, names), default=0)
    for graph in comparison.graphs:
        lines += ["", f"{graph.graph:<{width + 2}}  {'cosine':>10}  {'SQNR dB':>8}  {'max |a-b|':>10}"]
        lines += [_row(item, width, _mark(item, graph.divergence)) for item in (*graph.blocks, *graph.outputs)]
        lines += _cache_line(graph.caches)
    return "\n".join([*lines, "", _result_text(comparison)])


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return `comparison` as JSON content; infinite SQNR and NaN are null.

    The field `equal` distinguishes equal tensors from tensors with values that are not finite.
    """
    content = asdict(comparison)
    for graph, entry in zip(comparison.graphs, content["graphs"], strict=True):
        for part in ("blocks", "outputs", "caches"):
            entry[part] = [_entry(item) for item in getattr(graph, part)]
        entry["divergence"] = _divergence_entry(graph.divergence)
    return {**content, "first_divergence": _divergence_entry(comparison.first_divergence)}


def _row(item: Difference, width: int, mark: str) -> str:
    return f"  {item.name:<{width}}  {item.cosine:>10.7f}  {item.sqnr_db:>8.1f}  {item.max_abs:>10.3g}{mark}"


def _mark(item: Difference, found: Divergence | None) -> str:
    if found is not None and found.below and item.name == found.place:
        return "  < diverges"
    return "  < largest drop" if found is not None and item.name == found.steepest else ""


def _cache_line(caches: Sequence[Difference]) -> Iterator[str]:
    if caches:
        worst = min(caches, key=lambda item: item.sqnr_db)
        yield f"  {len(caches)} caches, for information: lowest SQNR {worst.sqnr_db:.1f} dB in {worst.name}"


def _result_text(comparison: Comparison) -> str:
    found, threshold = comparison.first_divergence, f"{comparison.threshold_db:g} dB"
    if found is None:
        return f"no divergence: {_lowest(comparison, threshold)}"
    remedy = _remedy(found, comparison.precision_a)
    drop = f"the largest drop of a block is {found.drop_db:.1f} dB at {found.steepest}"
    if not found.below:
        finding = f"nothing falls below {threshold}; in {found.graph} {drop}, to {found.sqnr_db:.1f} dB"
        return f"{finding}: should accuracy be lost, {remedy}"
    finding = f"first divergence: {found.graph} falls below {threshold} at {found.place} ({found.sqnr_db:.1f} dB)"
    if found.steepest not in (None, found.place):
        finding = f"{finding}; up to there {drop}"
    return f"{finding}: {remedy}"


def _lowest(comparison: Comparison, threshold: str) -> str:
    every = [(item, graph.graph) for graph in comparison.graphs for item in (*graph.blocks, *graph.outputs)]
    item, graph = min(every, key=lambda pair: pair[0].sqnr_db)
    if item.sqnr_db == math.inf:
        return "every block and every output is equal"
    return f"nothing falls below {threshold}, the lowest is {item.sqnr_db:.1f} dB at {item.name} of {graph}"


def _remedy(found: Divergence, precision: str) -> str:
    if precision not in QUANTIZED:
        return f"export it again, or with a wider --dtype ({precision} quantizes nothing)"
    if not found.keep_high:
        return "export it again (nothing is quantized between the last block and there)"
    patterns = " ".join(f"--keep-high '{pattern}'" for pattern in found.keep_high)
    return f"export with {patterns}"


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
