"""What is done to a model's weights and graphs to quantize it: the decisions, and what follows from them."""

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
    """How the weight of one linear becomes codes."""

    scale: Tensor
    """Of each output row, ``[out]``, or of blocks in it, ``[out, C / n]``; fp32, as the graph stores it."""
    correction: Tensor | None = None
    """Added to the bias for what rounding the weight does to the mean output, ``[out]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """What one parameter is multiplied by, exactly: layer scale, and powers of two of smoothing."""

    rows: Tensor | None = None
    columns: Tensor | None = None
    added: Tensor | None = None

    def apply(self, value: Tensor) -> Tensor:
        """Return fp32 `value` times rows and columns, plus what is added."""
        if self.rows is not None:
            value = value * (self.rows if value.ndim == 1 else self.rows[:, None])
        if self.columns is not None:
            value = value * self.columns
        return value if self.added is None else value + self.added


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRange:
    """Largest magnitudes of what one attention reads, as the graph has it (v after smoothing)."""

    q: float
    k: float
    v: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A quantized model, but for its weights."""

    rules: Rules
    decisions: tuple[Decision, ...]
    factors: Mapping[str, Factors] = field(default_factory=dict)
    """Parameter -> what it is multiplied by."""
    linears: Mapping[str, LinearWeights] = field(default_factory=dict)
    """Module path of every quantized linear."""
    attention: Mapping[str, Mapping[str, AttentionRange]] = field(default_factory=dict)
    """Graph -> attention that is quantized too -> its ranges; on demand only."""

    @property
    def weights(self) -> Format | None:
        """The format of weights; None where they are not quantized."""
        return self.rules.precision.weights

    @property
    def activations(self) -> Format | None:
        """The format of activations; None where they are not quantized."""
        return self.rules.precision.activations

    def quantized(self, graph: str) -> list[tuple[Site, Clip]]:
        """Return the sites of `graph` that are quantized, with their activation quantizers."""
        return [(d.site, d.clips[graph]) for d in self.decisions if d.quantized and graph in d.clips]


def folded(decisions: Sequence[Decision], layer_scales: Mapping[str, Tensor]) -> dict[str, Factors]:
    """Return the factors of every parameter that smoothing or layer scale touches.

    A site kept in high precision is not smoothed. Layer scale folds into every block's proj and fc2.
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
    """Write the decisions (json) and the vectors of smoothing and weight scales (safetensors)."""
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
    """Return what rounding takes from the mean output: ``(W - rounded) E[x]``, ``[out]``."""
    return (weight - rounded) @ torch.from_numpy(mean)
