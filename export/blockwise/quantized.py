"""Apply a recipe to the weights of a checkpoint and to cached values."""

from collections.abc import Mapping

import numpy as np
import torch

from internvl_edge.calib.recipes.recipe import Factors, Recipe
from internvl_edge.export.checkpoint.store.weight_sources import AdjustedTensor, ComputedTensor, QuantizedTensor, Source

_CACHED_VALUE = "past_key_values.{}.value"


def quantized_sources(recipe: Recipe, sources: Mapping[str, Source]) -> dict[str, Source]:
    """Return `sources` with codes and scales for quantized weights, and with factors folded into parameters."""
    found: dict[str, Source] = dict(sources)
    for name, factors in recipe.factors.items():
        if name in sources:
            found[name] = AdjustedTensor(name=name, base=sources[name], adjust=factors.apply)
    for name in {d.site.layer_scale for d in recipe.decisions if d.site.layer_scale is not None}:
        found[name] = ComputedTensor(name=name, value=torch.ones(sources[name].shape))  # folded into the linear
    for path, weights in recipe.linears.items():
        assert recipe.weights is not None
        name = f"{path}.weight"
        adjust = recipe.factors.get(name, Factors()).apply
        found[name] = QuantizedTensor(
            name=name, base=sources[name], adjust=adjust, scale=weights.scale, form=recipe.weights
        )
        found[f"{path}.weight_scale"] = ComputedTensor(name=f"{path}.weight_scale", value=weights.scale)
    return found


def with_cached_values(recipe: Recipe, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `inputs` with the cached values ``[B, H, n, D]`` that the quantized model would have computed.

    Smoothing of ``o_proj`` divides the rows of ``v_proj``, so the cached values are divided by the same factors.
    """
    found = dict(inputs)
    for decision in recipe.decisions:
        name = _CACHED_VALUE.format(decision.site.block)
        is_output = decision.site.kind == "self_attn.o_proj"
        if is_output and decision.quantized and decision.smoothing is not None and name in found:
            heads, width = found[name].shape[1], found[name].shape[3]
            found[name] = found[name] / decision.smoothing.reshape(heads, 1, width)
    return found
