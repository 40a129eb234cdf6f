"""Make a recipe from ranges: decide site by site, then derive how every parameter is stored."""

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from internvl_edge.calib.formats import amax_of, broadcast_scale, encode, fake_quantize, scale_of
from internvl_edge.calib.heap import trim_heap
from internvl_edge.calib.model import CalibrationModel
from internvl_edge.calib.ranges.stored import Ranges
from internvl_edge.calib.recipes.decide import Decision, Rules, decide
from internvl_edge.calib.recipes.recipe import AttentionRange, Factors, LinearWeights, Recipe, folded, mean_correction
from internvl_edge.calib.sites import Site
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.progress import Progress

_PROJECTIONS = ("proj", "o_proj")
"""Names of the linears that take the output of an attention."""


def make_recipe(
    model: CalibrationModel, ranges: Ranges, rules: Rules, high: Mapping[str, str], progress: Progress
) -> Recipe:
    """Return the recipe of all sites that have ranges.

    `high` gives the sites that stay in high precision, each with the reason.
    """
    measured = set(ranges.info.blocks)
    blocks = [path for path in model.blocks if path in measured]
    decisions: list[Decision] = []
    with progress.task("Deciding scales", len(blocks), "blocks") as advance:
        for path in blocks:
            decisions += _decide_block(path, model, ranges, rules, high)
            trim_heap()
            advance(1)
    attention = _attention(model, decisions, ranges) if rules.fp8_attention else {}
    return with_weights(Recipe(rules=rules, decisions=tuple(decisions), attention=attention), model, ranges)


def keep_high(recipe: Recipe, high: Mapping[str, str], model: CalibrationModel, ranges: Ranges) -> Recipe:
    """Return `recipe` with the sites of `high` in high precision as well, and the attentions whose output they take."""
    decisions = tuple(
        replace(d, quantized=False, reason=high[d.site.name]) if d.site.name in high else d for d in recipe.decisions
    )
    attention = {
        graph: {
            path: held for path, held in found.items() if not {f"{path}.{name}" for name in _PROJECTIONS} & set(high)
        }
        for graph, found in recipe.attention.items()
    }
    return with_weights(replace(recipe, decisions=decisions, attention=attention), model, ranges)


def with_weights(recipe: Recipe, model: CalibrationModel, ranges: Ranges) -> Recipe:
    """Return `recipe` with the factors, scales and bias corrections that follow from its decisions."""
    scales = {d.site.layer_scale: model.weight(d.site.layer_scale) for d in recipe.decisions if d.site.layer_scale}
    factors = folded(recipe.decisions, scales)
    linears: dict[str, LinearWeights] = {}
    for decision in recipe.decisions:
        if decision.quantized and recipe.weights is not None:
            for path in decision.site.linears:
                linears[path] = _weights_of(path, decision, recipe, model, ranges, factors)
                trim_heap()
    corrected = {f"{path}.bias": weights.correction for path, weights in linears.items()}
    for name, added in corrected.items():
        if added is not None:
            factors[name] = replace(factors.get(name, Factors()), added=added)
    return replace(recipe, factors=factors, linears=linears)


def fake_quantizers(recipe: Recipe, graph: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the fake quantization of the input of each quantized linear of `graph`, by the linear's path."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    if (form := recipe.activations) is None:
        return found
    for site, clip in recipe.quantized(graph):
        change = partial(fake_quantize, scale=torch.tensor(clip.scale), form=form)
        found |= dict.fromkeys(site.linears, change)
    return found


def matching_sites(patterns: Sequence[str], sites: Sequence[Site]) -> dict[str, str]:
    """Return the sites that `patterns` keep in high precision, each with the reason.

    A pattern is a glob over names of linears, with or without the path of their tower.

    Raises:
        CalibrationError: patterns match nothing; all of them are named, with similar names.
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
    path: str, model: CalibrationModel, ranges: Ranges, rules: Rules, high: Mapping[str, str]
) -> list[Decision]:
    statistics = ranges.block(path)
    decisions = []
    for site in model.blocks[path]:
        seen = {graph: found for (graph, name), found in statistics.items() if name == site.name}
        if not seen:
            continue
        weights = [_scaled(site, model, name) for name in site.weights]
        decision = decide(site, seen, weights, rules)
        if site.name in high:
            decision = replace(decision, quantized=False, reason=high[site.name], prescription="keep high")
        decisions.append(decision)
    return decisions


def _attention(
    model: CalibrationModel, decisions: Sequence[Decision], ranges: Ranges
) -> dict[str, dict[str, AttentionRange]]:
    """Return the ranges of every attention whose projection is quantized; the range of v is that after smoothing."""
    block_of = _block_of_sites(model)
    found: dict[str, dict[str, AttentionRange]] = {}
    for decision in decisions:
        path, _, linear = decision.site.name.rpartition(".")
        if linear not in _PROJECTIONS or not decision.quantized:
            continue
        statistics = ranges.block(block_of[decision.site.name])
        for graph in decision.clips:
            q, k, v = (statistics[graph, f"{path}.{part}"].amax for part in "qkv")
            values = v if decision.smoothing is None else v / decision.smoothing
            held = AttentionRange(q=float(q.max()), k=float(k.max()), v=float(values.max()))
            found.setdefault(graph, {})[path] = held
    return found


def _block_of_sites(model: CalibrationModel) -> dict[str, str]:
    """Return the path of the block of every site, by the name of the site."""
    return {site.name: path for path, sites in model.blocks.items() for site in sites}


def _scaled(site: Site, model: CalibrationModel, name: str) -> Tensor:
    """Return a weight times its layer scale, so that an error counts as much as it changes the residual stream."""
    weight = model.weight(name)
    return weight if site.layer_scale is None else weight * model.weight(site.layer_scale)[:, None]


def _weights_of(
    path: str,
    decision: Decision,
    recipe: Recipe,
    model: CalibrationModel,
    ranges: Ranges,
    factors: Mapping[str, Factors],
) -> LinearWeights:
    name, form = f"{path}.weight", recipe.weights
    assert form is not None
    weight = _padded(factors.get(name, Factors()).apply(model.weight(name)), decision.site.row_multiple)
    scale = scale_of(amax_of(weight, form.granularity), form, recipe.rules.dtype)
    if f"{path}.bias" not in model.shapes:
        return LinearWeights(scale=scale)
    graph = next(iter(decision.clips))
    mean = ranges.block(_block_of_sites(model)[decision.site.name])[graph, decision.site.name].mean
    mean = mean if decision.smoothing is None else mean / decision.smoothing
    wide = broadcast_scale(scale, form.granularity, weight.ndim)
    return LinearWeights(
        scale=scale, correction=mean_correction(weight, encode(weight, wide, form).float() * wide, mean)
    )


def _padded(weight: Tensor, multiple: int) -> Tensor:
    """Return the weight ``[out, C]``, padded with rows of zeros to a multiple of `multiple` rows."""
    return torch.nn.functional.pad(weight, (0, 0, 0, -weight.shape[0] % multiple))
