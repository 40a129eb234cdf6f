"""Quantize a checkpoint on its ranges: decide site by site, then say how every parameter is stored."""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from internvl_edge.calib.decide import Decision, Rules, decide
from internvl_edge.calib.formats import amax_of, encode, fake, scale_of, spread
from internvl_edge.calib.fp8_attention import AttentionRange
from internvl_edge.calib.ranges import Ranges
from internvl_edge.calib.recipe import Factors, LinearWeights, Recipe, folded, mean_correction
from internvl_edge.calib.sites import Site
from internvl_edge.export.heap import trim_heap
from internvl_edge.export.sites import block_of
from internvl_edge.export.streamed import Change
from internvl_edge.export.weights import AdjustedTensor, ComputedTensor, QuantizedTensor, Source, whole
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.progress import Progress

_CACHED_VALUE = "past_key_values.{}.value"
_PROJECTIONS = ("proj", "o_proj")
"""Linears behind an attention."""


def make_recipe(
    sites: Sequence[Site],
    ranges: Ranges,
    sources: Mapping[str, Source],
    rules: Rules,
    high: Mapping[str, str],
    progress: Progress,
) -> Recipe:
    """Return the recipe of all sites that the ranges cover; `high` says which stay in high precision, and why."""
    measured = set(ranges.info.blocks)
    blocks = list(dict.fromkeys(block_of(site) for site in sites if block_of(site) in measured))
    decisions: list[Decision] = []
    with progress.task("Deciding scales", len(blocks), "blocks") as advance:
        for path in blocks:
            decisions += _decide_block(path, sites, ranges, sources, rules, high)
            trim_heap()
            advance(1)
    attention = _attention(decisions, ranges) if rules.fp8_attention else {}
    return with_weights(Recipe(rules=rules, decisions=tuple(decisions), attention=attention), ranges, sources)


def keep_high(recipe: Recipe, high: Mapping[str, str], ranges: Ranges, sources: Mapping[str, Source]) -> Recipe:
    """Return `recipe` with the sites of `high` in high precision too, and the attention in front of them."""
    decisions = tuple(
        replace(d, quantized=False, reason=high[d.site.name]) if d.site.name in high else d for d in recipe.decisions
    )
    attention = {
        graph: {
            path: held for path, held in found.items() if not {f"{path}.{name}" for name in _PROJECTIONS} & set(high)
        }
        for graph, found in recipe.attention.items()
    }
    return with_weights(replace(recipe, decisions=decisions, attention=attention), ranges, sources)


def with_weights(recipe: Recipe, ranges: Ranges, sources: Mapping[str, Source]) -> Recipe:
    """Return `recipe` with factors, scales and corrections that follow from its decisions."""
    scales = {d.site.layer_scale: whole(sources[d.site.layer_scale]) for d in recipe.decisions if d.site.layer_scale}
    factors = folded(recipe.decisions, scales)
    linears: dict[str, LinearWeights] = {}
    for decision in recipe.decisions:
        if decision.quantized and recipe.weights is not None:
            for path in decision.site.linears:
                linears[path] = _weights_of(path, decision, recipe, ranges, sources, factors)
                trim_heap()
    corrected = {f"{path}.bias": weights.correction for path, weights in linears.items()}
    for name, added in corrected.items():
        if added is not None:
            factors[name] = replace(factors.get(name, Factors()), added=added)
    return replace(recipe, factors=factors, linears=linears)


def quantized_sources(recipe: Recipe, sources: Mapping[str, Source]) -> dict[str, Source]:
    """Return `sources` as the recipe changes them: codes, scales, folded parameters."""
    found: dict[str, Source] = dict(sources)
    for name, factors in recipe.factors.items():
        if name in sources:
            found[name] = AdjustedTensor(name=name, base=sources[name], adjust=factors.apply)
    for name in {d.site.layer_scale for d in recipe.decisions if d.site.layer_scale is not None}:
        found[name] = ComputedTensor(name=name, value=torch.ones(sources[name].shape))  # folded into rows
    for path, weights in recipe.linears.items():
        assert recipe.weights is not None
        name = f"{path}.weight"
        adjust = recipe.factors.get(name, Factors()).apply
        found[name] = QuantizedTensor(
            name=name, base=sources[name], adjust=adjust, scale=weights.scale, form=recipe.weights
        )
        found[f"{path}.weight_scale"] = ComputedTensor(name=f"{path}.weight_scale", value=weights.scale)
    return found


def fake_quantizers(recipe: Recipe, graph: str) -> dict[str, Change]:
    """Return what each quantized linear of `graph` does to its input, by its path."""
    found: dict[str, Change] = {}
    if (form := recipe.activations) is None:
        return found
    for site, clip in recipe.quantized(graph):
        change = partial(fake, scale=torch.tensor(clip.scale), form=form)
        found |= dict.fromkeys(site.linears, change)
    return found


def with_cached_values(recipe: Recipe, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `inputs` with cached values ``[B, H, n, D]`` of the plain model as the quantized one would have left them.

    Smoothing of ``o_proj`` divides the rows of ``v_proj``, so it divides what the cache holds.
    """
    found = dict(inputs)
    for decision in recipe.decisions:
        name = _CACHED_VALUE.format(decision.site.block)
        is_output = decision.site.tower == "qllama" and decision.site.name.endswith(".self_attn.o_proj")
        if is_output and decision.quantized and decision.smoothing is not None and name in found:
            heads, width = found[name].shape[1], found[name].shape[3]
            found[name] = found[name] / decision.smoothing.reshape(heads, 1, width)
    return found


def matching(patterns: Sequence[str], sites: Sequence[Site]) -> dict[str, str]:
    """Return the sites that `patterns` (globs on names of linears, with or without their tower's path) keep high.

    Raises:
        CalibrationError: patterns that match nothing, all of them, with near names.
    """
    names = {path: site.name for site in sites for path in site.linears}
    found: dict[str, str] = {}
    unknown = []
    for pattern in patterns:
        hit = [path for path in names if fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, f"*{pattern}")]
        hit = hit or [path for path in names if path.startswith(f"{pattern}.")]
        if not hit:
            near = difflib.get_close_matches(pattern, list(names), n=3, cutoff=0.3)
            unknown.append(f"{pattern} (near: {', '.join(near)})" if near else pattern)
        found |= {names[path]: f"--keep-high {pattern}" for path in hit}
    if unknown:
        raise CalibrationError(f"--keep-high {'; '.join(unknown)}: matches no linear; give a name or a glob of names")
    return found


def _decide_block(
    path: str,
    sites: Sequence[Site],
    ranges: Ranges,
    sources: Mapping[str, Source],
    rules: Rules,
    high: Mapping[str, str],
) -> list[Decision]:
    statistics = ranges.block(path)
    decisions = []
    for site in sites:
        if block_of(site) != path:
            continue
        seen = {graph: found for (graph, name), found in statistics.items() if name == site.name}
        if not seen:
            continue
        weights = [_scaled(site, sources, name) for name in site.weights]
        decision = decide(site, seen, weights, rules)
        if site.name in high:
            decision = replace(decision, quantized=False, reason=high[site.name], prescription="keep high")
        decisions.append(decision)
    return decisions


def _attention(decisions: Sequence[Decision], ranges: Ranges) -> dict[str, dict[str, AttentionRange]]:
    """Return the ranges of every attention in front of a quantized projection; v as its smoothing leaves it."""
    found: dict[str, dict[str, AttentionRange]] = {}
    for decision in decisions:
        path, _, linear = decision.site.name.rpartition(".")
        if linear not in _PROJECTIONS or not decision.quantized:
            continue
        statistics = ranges.block(block_of(decision.site))
        for graph in decision.clips:
            q, k, v = (statistics[graph, f"{path}.{part}"].amax for part in "qkv")
            values = v if decision.smoothing is None else v / decision.smoothing
            held = AttentionRange(q=float(q.max()), k=float(k.max()), v=float(values.max()))
            found.setdefault(graph, {})[path] = held
    return found


def _scaled(site: Site, sources: Mapping[str, Source], name: str) -> Tensor:
    """Return a weight with its layer scale: an error counts by what it does to the residual stream."""
    weight = whole(sources[name])
    return weight if site.layer_scale is None else weight * whole(sources[site.layer_scale])[:, None]


def _weights_of(
    path: str,
    decision: Decision,
    recipe: Recipe,
    ranges: Ranges,
    sources: Mapping[str, Source],
    factors: Mapping[str, Factors],
) -> LinearWeights:
    name, form = f"{path}.weight", recipe.weights
    assert form is not None
    weight = _padded(factors.get(name, Factors()).apply(whole(sources[name])), decision.site.row_multiple)
    scale = scale_of(amax_of(weight, form.granularity), form, recipe.rules.dtype)
    if f"{path}.bias" not in sources:
        return LinearWeights(scale=scale)
    graph = next(iter(decision.clips))
    mean = ranges.block(block_of(decision.site))[graph, decision.site.name].mean
    mean = mean if decision.smoothing is None else mean / decision.smoothing
    wide = spread(scale, form.granularity, weight.ndim)
    return LinearWeights(
        scale=scale, correction=mean_correction(weight, encode(weight, wide, form).float() * wide, mean)
    )


def _padded(weight: Tensor, multiple: int) -> Tensor:
    """Return ``[out, C]`` with rows of zeros up to a multiple of `multiple`."""
    return torch.nn.functional.pad(weight, (0, 0, 0, -weight.shape[0] % multiple))
