"""The stage of an export that writes the graphs, quantized or not, and the store of the weights that they share."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir

from internvl_edge.calib.qdq.insert import quantize_graph
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.export.blockwise.quantized import quantized_sources
from internvl_edge.export.canonical.tensor_specs import graph_info
from internvl_edge.export.checkpoint.store.source_scan import SourceScan
from internvl_edge.export.checkpoint.store.weight_sources import Source
from internvl_edge.export.checkpoint.store.weight_store import (
    WeightPlan,
    attach_weights,
    placeholders,
    plan_weights,
    write_store,
)
from internvl_edge.export.dialects.join_heads import JoinHeadsPass
from internvl_edge.export.models.families.language_model import EMBEDDING
from internvl_edge.export.models.graphs import graph_rows
from internvl_edge.export.run.export_run import ExportRun
from internvl_edge.export.run.staging import Staging
from internvl_edge.runtime.bundle.manifest import EmbeddingInfo, FileInfo, GraphInfo
from internvl_edge.runtime.progress import BYTES

TRACED = "traced"
"""Folder in the staging area for traced graphs; it does not ship."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The written graphs and the store of their weights."""

    sources: Mapping[str, Source]
    """Weight -> where its values come from, including codes and scales of quantized weights."""
    graphs: Mapping[str, GraphInfo]
    plan: WeightPlan
    files: Mapping[str, FileInfo]
    """File of the store -> its size and digest."""
    embedding: EmbeddingInfo | None = None
    """Place of the table of token embeddings; None if no graph takes embeddings of tokens."""


def store_graphs(
    run: ExportRun,
    staging: Staging,
    folder: Path,
    recipe: Recipe | None,
    shared: Collection[Path],
    scan: SourceScan,
) -> Stored:
    """Write the graphs and the store of all weights that they use, and of the table that the runtime reads rows of."""
    sources = quantized_sources(recipe, run.model.sources) if recipe is not None else run.model.sources
    models = {name: _graph(staging, name, recipe) for name in run.graphs}
    used = {weight for model in models.values() for weight in placeholders(model)}
    embeds = any(graph_rows(run.config)[name].embeds is not None for name in models)
    if embeds:
        used.add(EMBEDDING)
    plan = plan_weights([sources[name] for name in sorted(used)], run.dtype, shared)
    graphs = {name: _place(run, staging, folder, model, plan) for name, model in models.items()}
    del models
    files = _store(run, staging, folder, plan, scan)
    embedding = _embedding(plan, folder.relative_to(staging.folder)) if embeds else None
    return Stored(sources=sources, graphs=graphs, plan=plan, files=files, embedding=embedding)


def _embedding(plan: WeightPlan, folder: Path) -> EmbeddingInfo:
    place = plan.placements[EMBEDDING]
    file = (folder / place.location).as_posix()
    return EmbeddingInfo(file=file, offset=place.offset, dtype=place.dtype, rows=place.shape[0])


def _graph(staging: Staging, name: str, recipe: Recipe | None) -> ir.Model:
    model = ir.load(staging.folder / TRACED / f"{name}.onnx")
    if recipe is None:
        return model
    if recipe.attention.get(name):
        JoinHeadsPass()(model)  # a dialect could not do it behind Q/DQ nodes
    return quantize_graph(model, recipe)


def _place(run: ExportRun, staging: Staging, folder: Path, model: ir.Model, plan: WeightPlan) -> GraphInfo:
    """Attach the store's weights to a graph and save it; return its description for the manifest."""
    attach_weights(model, plan)
    path = folder / f"{model.graph.name}.onnx"
    ir.save(model, path)
    return graph_info(path.relative_to(staging.folder).as_posix(), model, graph_rows(run.config)[path.stem].use)


def _store(run: ExportRun, staging: Staging, folder: Path, plan: WeightPlan, scan: SourceScan) -> dict[str, FileInfo]:
    """Write and link the weights unless an earlier run has; return size and digest of each file of the store."""
    done = staging.finished("weights")
    if done is None:
        label = "Linking weights" if plan.files and not plan.written else "Writing weights"
        with run.progress.task(label, plan.bytes_to_read, BYTES) as advance:
            written = write_store(plan, folder, scan, advance, link=run.weights == "link")
            done = {name: asdict(info) for name, info in written.items()}
        staging.finish("weights", done)
    return {(folder / name).relative_to(staging.folder).as_posix(): FileInfo(**info) for name, info in done.items()}
