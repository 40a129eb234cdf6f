"""A recipe: the decisions on all sites, and the factors, scales and corrections that follow from them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from internvl_edge.calib.recipes.decide import Clip, Decision, Rules
from internvl_edge.calib.sites import NormFold, Site
from internvl_edge.runtime.numbers.formats import Format


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearWeights:
    """Scale and bias correction of the quantized weight of one linear."""

    scale: Tensor
    """Scale of each output row, ``[out]``, or of each block of n columns, ``[out, C / n]``, in fp32."""
    correction: Tensor | None = None
    """Vector ``[out]`` added to the bias to undo the change of the mean output by rounding; None without a bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Factors of one parameter: the layer scale, and the powers of two of smoothing."""

    rows: Tensor | None = None
    columns: Tensor | None = None
    added: Tensor | None = None

    def apply(self, value: Tensor) -> Tensor:
        """Return `value` in fp32 times the factors of its rows and columns, plus `added`."""
        if self.rows is not None:
            value = value * (self.rows if value.ndim == 1 else self.rows[:, None])
        if self.columns is not None:
            value = value * self.columns
        return value if self.added is None else value + self.added


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRange:
    """Largest magnitudes of the inputs of one attention; that of v is after smoothing."""

    q: float
    k: float
    v: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that describes a quantized model, without the values of its weights."""

    rules: Rules
    decisions: tuple[Decision, ...]
    factors: Mapping[str, Factors] = field(default_factory=dict)
    """Name of a parameter -> its factors."""
    linears: Mapping[str, LinearWeights] = field(default_factory=dict)
    """Module path of every quantized linear -> scale and correction of its weight."""
    attention: Mapping[str, Mapping[str, AttentionRange]] = field(default_factory=dict)
    """Graph -> module path of each attention that is quantized -> its ranges; empty unless --fp8-attention is given."""

    @property
    def weights(self) -> Format | None:
        """Format of the weights; None if they are not quantized."""
        return self.rules.precision.weights

    @property
    def activations(self) -> Format | None:
        """Format of the activations; None if they are not quantized."""
        return self.rules.precision.activations

    def quantized(self, graph: str) -> list[tuple[Site, Clip]]:
        """Return the quantized sites of `graph`, each with its activation quantizer."""
        return [(d.site, d.clips[graph]) for d in self.decisions if d.quantized and graph in d.clips]


def folded(decisions: Sequence[Decision], layer_scales: Mapping[str, Tensor]) -> dict[str, Factors]:
    """Return the factors of every parameter that smoothing or layer scale changes.

    A site that stays in high precision is not smoothed. Layer scale is folded into the proj and fc2 of every block.
    """
    factors: dict[str, Factors] = {}
    for decision in decisions:
        site = decision.site
        if site.layer_scale is not None:
            scale = layer_scales[site.layer_scale].float()
            for name in (f"{site.name}.weight", f"{site.name}.bias"):
                _multiply(factors, name, rows=scale)
        if decision.smoothing is not None and decision.quantized:
            vector = torch.from_numpy(decision.smoothing)
            for name in site.weights:
                _multiply(factors, name, columns=vector)
            _divide_source(factors, site, vector)
    return factors


def _divide_source(factors: dict[str, Factors], site: Site, vector: Tensor) -> None:
    fold = site.fold
    assert fold is not None
    if isinstance(fold, NormFold):
        for name in fold.parameters:
            _multiply(factors, name, rows=1 / vector)
        return
    for part in (fold.weight, fold.bias):
        if part is not None:
            _multiply(factors, part, rows=torch.cat([torch.ones(fold.start), 1 / vector]))


def _multiply(
    factors: dict[str, Factors], name: str, *, rows: Tensor | None = None, columns: Tensor | None = None
) -> None:
    held = factors.get(name, Factors())
    factors[name] = replace(held, rows=_product(held.rows, rows), columns=_product(held.columns, columns))


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a * b


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the decisions as recipe.json, and smoothing vectors and weight scales as vectors.safetensors."""
    content = {
        "precision": recipe.rules.precision.name,
        "weights": str(recipe.weights) if recipe.weights is not None else None,
        "activations": str(recipe.activations) if recipe.activations is not None else None,
        "dtype": recipe.rules.dtype,
        "method": recipe.rules.method,
        "smooth": recipe.rules.smooth,
        "sites": [_entry(decision) for decision in recipe.decisions],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    tensors = {f"{path}.weight_scale": weights.scale for path, weights in recipe.linears.items()}
    for decision in recipe.decisions:
        if decision.smoothing is not None and decision.quantized:
            tensors[f"{decision.site.name}.smoothing"] = torch.from_numpy(decision.smoothing)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "vectors.safetensors")


def _entry(decision: Decision) -> dict[str, Any]:
    site = decision.site
    return {
        "name": site.name,
        "linears": list(site.linears),
        "kind": site.kind,
        "placement": "quantized" if decision.quantized else "high",
        "reason": decision.reason,
        "alpha": decision.alpha,
        "graphs": {
            graph: {"threshold": clip.threshold, "scale": clip.scale, "method": clip.method, "sqnr_db": clip.sqnr_db}
            for graph, clip in decision.clips.items()
        },
    }


def mean_correction(weight: Tensor, rounded: Tensor, mean: np.ndarray) -> Tensor:
    """Return the change of the mean output by rounding the weight, ``(W - rounded) E[x]``, ``[out]``."""
    return (weight - rounded) @ torch.from_numpy(mean)
