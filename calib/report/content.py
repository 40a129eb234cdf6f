"""Content of the quantization report: ranges, outliers, thresholds, sensitivity and accuracy, as JSON types."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from internvl_edge.calib.gate.result import GateResult
from internvl_edge.calib.gate.sensitivity import Damage
from internvl_edge.calib.ranges.collector import ATTENTION_TENSORS, RESIDUAL, Key
from internvl_edge.calib.ranges.observer import Statistics
from internvl_edge.calib.ranges.stored import Ranges
from internvl_edge.calib.recipes.decide import OUTLIER_RATIO, Decision, outlier_ratio
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.runtime.numbers.tensor_types import FLOAT16

MAP_COLUMNS = 64
"""Number of groups of channels in the map, each of which shows its largest channel."""
PLACEMENT_RULES = (
    ("linears of attention, MLP and cross-attention, and lm_head are quantized", "99.9 % of the weights and products"),
    ("q, k and v, and gate and up, share one quantizer", "they read one tensor: one kernel quantizes it once"),
    ("lm_head has rows of zeros up to a multiple of 16, cut from the logits", "8-bit GEMM kernels want such sizes"),
    ("patch and position embeddings stay high", "0.1 % of the products, and pixels have no range to calibrate"),
    ("norms, softmax and residual sums stay high", "they are bound by memory, and their sums need the digits"),
    ("attention pools, projections and heads stay high", "they make the embedding itself, from one row a picture"),
    ("the connector stays high", "it feeds another model, whose needs are not known here"),
    ("a site below its output SQNR bound, or with outliers no rule tames, stays high", "said with the site"),
)


def build_report(
    recipe: Recipe,
    ranges: Ranges,
    damages: Sequence[Damage],
    result: GateResult | None,
    max_drop: float,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the report as JSON types; statistics are read block by block."""
    by_site = {decision.site.name: decision for decision in recipe.decisions}
    sites: list[dict[str, Any]] = []
    attention: list[dict[str, Any]] = []
    residual: list[dict[str, Any]] = []
    channels: dict[str, list[list[float]]] = {}
    for path in ranges.info.blocks:
        statistics = ranges.block(path)
        for (graph, name), seen in sorted(statistics.items()):
            if name in by_site and graph in by_site[name].clips:
                sites.append(_site(graph, by_site[name], seen))
            elif name.endswith(f".{RESIDUAL}"):
                residual.append(_residual(graph, path, seen))
                channels.setdefault(graph, []).append(_channel_map(seen))
        attention += _attention(path, statistics)
    info = ranges.info
    return {
        "schema": 1,
        "precision": recipe.rules.precision.name,
        "dtype": recipe.rules.dtype,
        "method": recipe.rules.method,
        "smooth": recipe.rules.smooth,
        "producer": dict(info.producer),
        "checkpoint": info.checkpoint,
        "data": _data(info.data),
        "sites": sites,
        "attention": attention,
        "residual": residual,
        "channel_map": channels,
        "sensitivity": [
            {"site": d.site, "graph": d.graph, "sqnr_db": d.sqnr_db, "kept_high": not by_site[d.site].quantized}
            for d in damages
        ],
        "accuracy": _accuracy(result),
        "gate": _gate(result, max_drop),
        "placement_rules": [{"rule": rule, "reason": reason} for rule, reason in PLACEMENT_RULES],
        "notes": list(notes),
    }


def _site(graph: str, decision: Decision, seen: Statistics) -> dict[str, Any]:
    site, clip = decision.site, decision.clips[graph]
    smoothed = seen.amax if decision.smoothing is None else seen.amax / decision.smoothing
    return {
        "name": site.name,
        "linears": list(site.linears),
        "graph": graph,
        "tower": site.tower,
        "block": site.block,
        "kind": site.kind,
        "placement": "quantized" if decision.quantized else "high",
        "reason": decision.reason,
        "amax": seen.largest,
        "smoothed_amax": float(smoothed.max()),
        "median_channel_amax": float(np.median(seen.amax)),
        "threshold": clip.threshold,
        "scale": clip.scale,
        "method": clip.method,
        "clipped_share": clip.clipped_share,
        "alpha": decision.alpha,
        "sqnr_db": clip.sqnr_db,
        "outlier_ratio": outlier_ratio(seen),
        "token_ratio": seen.token_amax / max(seen.token_median, 1e-30),
        "prescription": decision.prescription,
        "errors": dict(clip.errors),
        "convergence": [float(value) for value in seen.curve],
    }


def _residual(graph: str, path: str, seen: Statistics) -> dict[str, Any]:
    median = float(np.median(seen.amax))
    massive = [(int(c), float(seen.amax[c] / median)) for c in np.argsort(-seen.amax)[:8] if median > 0]
    return {
        "graph": graph,
        "block": int(path.rpartition(".")[2]),
        "amax": seen.largest,
        "median": median,
        "massive_channels": [entry for entry in massive if entry[1] >= OUTLIER_RATIO],
        "massive_tokens": seen.token_amax / max(seen.token_median, 1e-30),
        "fp16_headroom": FLOAT16.largest / max(seen.largest, 1e-30),
    }


def _channel_map(seen: Statistics) -> list[float]:
    """Return the ratio of the largest channel of each group to the median channel."""
    groups = np.array_split(seen.amax, min(MAP_COLUMNS, len(seen.amax)))
    median = max(float(np.median(seen.amax)), 1e-30)
    return [float(group.max()) / median for group in groups]


def _attention(path: str, statistics: Mapping[Key, Statistics]) -> list[dict[str, Any]]:
    first = ATTENTION_TENSORS[0]
    found = []
    for graph, name in sorted(statistics):
        base, _, tensor = name.rpartition(".")
        if tensor != first:
            continue
        q, k, v, p = (statistics[graph, f"{base}.{part}"].largest for part in ATTENTION_TENSORS)
        block = int(path.rpartition(".")[2])
        found.append(
            {"name": base, "graph": graph, "block": block, "q_amax": q, "k_amax": k, "v_amax": v, "probability_amax": p}
        )
    return found


def _data(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the data of all shards as one entry."""
    return {
        "source": ", ".join(str(part["source"]) for part in parts),
        "sha256": ", ".join(str(part["sha256"]) for part in parts),
        "pictures": sum(int(part["pictures"]) for part in parts),
        "texts": sum(int(part["texts"]) for part in parts),
        "unreadable": [name for part in parts for name in part["unreadable"]],
    }


def _accuracy(result: GateResult | None) -> list[dict[str, Any]]:
    if result is None:
        return []
    rows = [{"metric": m.name, "fp32": m.reference, "quantized": m.quantized, "drop": m.drop} for m in result.metrics]
    reference = float(np.mean([m.reference for m in result.metrics]))
    mean = {"metric": "mean", "fp32": reference, "quantized": reference - result.drop, "drop": result.drop}
    return [mean, *rows]


def _gate(result: GateResult | None, max_drop: float) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "max_drop": max_drop,
        "drop": result.drop,
        "metric": f"mean of {len(result.metrics)} figures on {result.pictures} pictures of {result.source}",
        "passed": result.drop <= max_drop,
    }
