"""Sensitivity of each site: the error of a graph's output when only this site is quantized."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from internvl_edge.calib.formats import sqnr_db
from internvl_edge.calib.model import CalibrationModel
from internvl_edge.calib.quantize import with_weights
from internvl_edge.calib.ranges.stored import Ranges
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.runtime.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """The sensitivity of one site, in the graph where it is largest."""

    site: str
    graph: str
    sqnr_db: float
    """SQNR in dB of the output of the graph with only this site quantized; a low value is a large damage."""


def rank(
    recipe: Recipe,
    model: CalibrationModel,
    ranges: Ranges,
    inputs: Mapping[str, Mapping[str, np.ndarray]],
    progress: Progress,
) -> list[Damage]:
    """Return the damage of every quantized site, the largest first; `inputs` are the inputs of each graph to run."""
    reference: dict[str, torch.Tensor] = {}
    compared = [graph for graph in model.graphs if graph in inputs and model.sensitivity_output(graph) is not None]
    with progress.task("Running the reference", len(compared), "graphs") as advance:
        for graph in compared:
            reference[graph] = _output(graph, model, inputs[graph], None)
            advance(1)
    names = [decision.site.name for decision in recipe.decisions if decision.quantized]
    found = []
    with progress.task("Measuring sensitivity", len(names), "linears") as advance:
        for name in names:
            alone = with_weights(_only(recipe, name), model, ranges)
            graphs = [graph for graph in reference if alone.quantized(graph)]
            outputs = {graph: _output(graph, model, inputs[graph], alone) for graph in graphs}
            damages = [
                Damage(site=name, graph=graph, sqnr_db=sqnr_db(reference[graph], output))
                for graph, output in outputs.items()
            ]
            found += [min(damages, key=lambda damage: damage.sqnr_db)] if damages else []
            advance(1)
    return sorted(found, key=lambda damage: damage.sqnr_db)


def _only(recipe: Recipe, name: str) -> Recipe:
    decisions = tuple(replace(d, quantized=d.quantized and d.site.name == name) for d in recipe.decisions)
    return replace(recipe, decisions=decisions)


def _output(
    graph: str, model: CalibrationModel, inputs: Mapping[str, np.ndarray], recipe: Recipe | None
) -> torch.Tensor:
    return torch.from_numpy(model.run(graph, inputs, recipe)[str(model.sensitivity_output(graph))])
