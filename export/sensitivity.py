"""How much each site costs alone: the tower's output when only that site is quantized, against the output in fp32."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from internvl_edge.calib.formats import sqnr_db
from internvl_edge.calib.ranges import Ranges
from internvl_edge.calib.recipe import Recipe
from internvl_edge.calib.verdict import Damage
from internvl_edge.export.config import ModelConfig
from internvl_edge.export.models.graphs import GRAPHS, graph_row
from internvl_edge.export.quantize import fake_quantizers, quantized_sources, with_cached_values, with_weights
from internvl_edge.export.sources import fetch_from
from internvl_edge.export.streamed import Change
from internvl_edge.export.verify import torch_outputs
from internvl_edge.export.weights import Source
from internvl_edge.runtime.progress import Progress


def rank(
    recipe: Recipe,
    config: ModelConfig,
    ranges: Ranges,
    sources: Mapping[str, Source],
    inputs: Mapping[str, Mapping[str, np.ndarray]],
    progress: Progress,
) -> list[Damage]:
    """Return the damage of every quantized site, the largest first; `inputs` holds those of each graph to judge by."""
    reference: dict[str, torch.Tensor] = {}
    with progress.task("Running the reference", len(_judged(inputs)), "graphs") as advance:
        for graph in _judged(inputs):
            reference[graph] = _output(graph, config, inputs[graph], sources, None)
            advance(1)
    names = [decision.site.name for decision in recipe.decisions if decision.quantized]
    found = []
    with progress.task("Measuring sensitivity", len(names), "linears") as advance:
        for name in names:
            alone = with_weights(_only(recipe, name), ranges, sources)
            changed = quantized_sources(alone, sources)
            graphs = [graph for graph in reference if alone.quantized(graph)]
            outputs = {graph: _output(graph, config, inputs[graph], changed, alone) for graph in graphs}
            damages = [
                Damage(site=name, graph=graph, sqnr_db=sqnr_db(reference[graph], output))
                for graph, output in outputs.items()
            ]
            found += [min(damages, key=lambda damage: damage.sqnr_db)] if damages else []
            advance(1)
    return sorted(found, key=lambda damage: damage.sqnr_db)


def _judged(inputs: Mapping[str, object]) -> Sequence[str]:
    return [row.name for row in GRAPHS if row.judged is not None and row.name in inputs]


def _only(recipe: Recipe, name: str) -> Recipe:
    decisions = tuple(replace(d, quantized=d.quantized and d.site.name == name) for d in recipe.decisions)
    return replace(recipe, decisions=decisions)


def _output(
    graph: str,
    config: ModelConfig,
    inputs: Mapping[str, np.ndarray],
    sources: Mapping[str, Source],
    recipe: Recipe | None,
) -> torch.Tensor:
    changed: Mapping[str, Change] = {}
    if recipe is not None:
        changed, inputs = fake_quantizers(recipe, graph), with_cached_values(recipe, inputs)
    outputs = torch_outputs(graph, config, inputs, fetch_from(sources), (), changed)
    return torch.from_numpy(outputs[str(graph_row(graph).judged)])
