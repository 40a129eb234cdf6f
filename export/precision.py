"""Choose what is quantized and how: ranges, recipe, and the fewest sites kept high that keep the accuracy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from internvl_edge.calib.dataset import open_data
from internvl_edge.calib.decide import Rules
from internvl_edge.calib.fp8_attention import FEWEST_KEYS, AttentionRange
from internvl_edge.calib.ranges import Ranges, check_fits, open_ranges
from internvl_edge.calib.recipe import Recipe
from internvl_edge.calib.verdict import Damage, Verdict
from internvl_edge.export.calibrate import CalibrateOptions, calibrate, fingerprint
from internvl_edge.export.calibration_data import RANDOM
from internvl_edge.export.config import ModelConfig
from internvl_edge.export.judge import Judge, Run, held_out
from internvl_edge.export.models.graphs import UNQUANTIZED_GRAPHS, graph_row
from internvl_edge.export.options import ExportOptions
from internvl_edge.export.quantize import fake_quantizers, keep_high, make_recipe, matching, quantized_sources
from internvl_edge.export.run import ExportRun
from internvl_edge.export.sensitivity import rank
from internvl_edge.export.sites import model_sites
from internvl_edge.export.sources import fetch_from
from internvl_edge.export.staging import Staging
from internvl_edge.export.verify import onnx_outputs, torch_outputs
from internvl_edge.export.weights import Source
from internvl_edge.runtime.errors import CalibrationError, InputError
from internvl_edge.runtime.graph_roles import EXPORTED_AS, IMAGE_ENCODER
from internvl_edge.runtime.numbers.formats import QUANTIZED
from internvl_edge.runtime.progress import Progress

RANGES = "ranges"
"""Folder of the staging area for ranges that are measured on the way; what was decided from them ships."""
_SMALL_VALUES = 1_000_000_000
"""Weights below which the damage of every site is measured always: it takes one pass over the model for each."""

Inputs = Callable[[str], Mapping[str, np.ndarray]]
"""Gives the inputs of a graph by its name, to tell damage by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """What was chosen, and what it was chosen by."""

    recipe: Recipe
    ranges: Ranges
    damages: Sequence[Damage]
    judge: Judge | None
    notes: list[str] = field(default_factory=list)


def choose_precision(run: ExportRun, staging: Staging, inputs: Inputs) -> Precision:
    """Decide the recipe on ranges that are given or measured now, and keep sites high until the gate is passed.

    Raises:
        CalibrationError: ranges of something else, or that lack a graph; patterns that match nothing.
    """
    options, sources, progress = run.options, run.sources, run.progress
    sites = model_sites(run.config)
    high = matching(options.keep_high, sites)
    ranges = open_ranges(options.ranges or _measured(run, staging))
    identity = fingerprint(list(run.checkpoint.tensors.values()), run.config)
    check_fits(ranges, identity, run.config.vision.image_size, options.checkpoint)
    if absent := sorted(set(run.graphs) - set(ranges.info.graphs) - UNQUANTIZED_GRAPHS):
        raise CalibrationError(f"{ranges.folder}: did not measure {', '.join(absent)}; calibrate with these graphs")
    recipe = make_recipe(sites, ranges, sources, _rules(run, ranges), high, progress)
    notes: list[str] = []
    recipe = replace(recipe, attention=with_enough_keys(recipe.attention, run.config, notes))
    judge = _judge(run, ranges, notes)
    missed = (
        judge is not None
        and not judge.verdict(torch_run(run.config, sources, recipe), progress).drop <= options.max_drop
    )
    damages: Sequence[Damage] = ()
    if options.gate_samples == 0:
        notes.append("sensitivity: not measured, since there is no gate (--gate-samples 0)")
    elif missed or _values(sources) < _SMALL_VALUES:
        damages = rank(recipe, run.config, ranges, sources, _judged_inputs(run, inputs), progress)
    else:
        notes.append("sensitivity: not measured, since the gate was passed and the model is large")
    if missed and judge is not None:
        recipe = fewest_high(recipe, damages, options, judge, run.config, ranges, sources)
    return Precision(recipe=recipe, ranges=ranges, damages=damages, judge=judge, notes=notes)


def with_enough_keys(
    attention: Mapping[str, Mapping[str, AttentionRange]], config: ModelConfig, notes: list[str]
) -> dict[str, dict[str, AttentionRange]]:
    """Return the attentions that stay one kernel when they are quantized; a note counts the others."""
    found = {
        graph: {path: held for path, held in ranges.items() if _fewest_keys(graph, path, config) >= FEWEST_KEYS}
        for graph, ranges in attention.items()
    }
    for graph, ranges in attention.items():
        if few := len(ranges) - len(found[graph]):
            notes.append(f"{graph}: {few} attentions stay high: calls may see fewer than {FEWEST_KEYS} rows")
    return found


def _fewest_keys(graph: str, path: str, config: ModelConfig) -> int:
    """Return the fewest rows that an attention sees in a call: pictures' tokens, queries, or a text of one token."""
    return config.vision.tokens if path.endswith(".cross_attn") else graph_row(graph).fewest_rows(config)


def fewest_high(
    recipe: Recipe,
    damages: Sequence[Damage],
    options: ExportOptions,
    judge: Judge,
    config: ModelConfig,
    ranges: Ranges,
    sources: Mapping[str, Source],
) -> Recipe:
    """Return `recipe` with the fewest of the worst sites kept high that stay within the drop, or all of the budget."""
    limit = len(damages) if options.budget_layers is None else min(options.budget_layers, len(damages))

    def kept(count: int) -> Recipe:
        worst = {d.site: f"alone it leaves {d.sqnr_db:.1f} dB of {d.graph}" for d in damages[:count]}
        return keep_high(recipe, worst, ranges, sources)

    def passes(count: int) -> bool:
        return judge.verdict(torch_run(config, sources, kept(count))).drop <= options.max_drop

    failing, count = 0, min(1, limit)
    while count < limit and not passes(count):
        failing, count = count, min(2 * count, limit)
    while count - failing > 1:
        middle = (failing + count) // 2
        failing, count = (failing, middle) if passes(middle) else (middle, count)
    return kept(count)


def torch_run(config: ModelConfig, sources: Mapping[str, Source], recipe: Recipe | None) -> Run:
    """Return what runs a graph in torch, quantized as `recipe` says; None runs it as it is."""
    fetch = fetch_from(sources if recipe is None else quantized_sources(recipe, sources))

    def run(graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        changed = None if recipe is None else fake_quantizers(recipe, graph)
        return torch_outputs(graph, config, inputs, fetch, (), changed)

    return run


def gate(judge: Judge, folder: Path, progress: Progress) -> Verdict:
    """Return what the written graphs in `folder` lose."""
    return judge.verdict(lambda graph, inputs: onnx_outputs(folder / f"{graph}.onnx", inputs), progress)


def _rules(run: ExportRun, ranges: Ranges) -> Rules:
    options = run.options
    return Rules(
        precision=QUANTIZED[str(options.precision)],
        dtype=run.dtype,
        method=options.method or ranges.info.method,
        smooth=options.smooth if options.smooth in ("auto", "off") else float(options.smooth),
        fp8_attention=options.fp8_attention,
    )


def _quantized_graphs(run: ExportRun) -> tuple[str, ...]:
    return tuple(name for name in run.graphs if name not in UNQUANTIZED_GRAPHS)


def _judged_inputs(run: ExportRun, inputs: Inputs) -> dict[str, Mapping[str, np.ndarray]]:
    quantized, found = _quantized_graphs(run), {}
    with run.progress.task("Computing inputs", len(quantized), "graphs") as advance:
        for name in quantized:
            found[name] = inputs(name)
            advance(1)
    return found


def _measured(run: ExportRun, staging: Staging) -> Path:
    """Return the ranges of this run's data, measuring them unless an earlier run has."""
    options, folder = run.options, staging.folder / RANGES
    if staging.finished("ranges") is None:
        calibrate(
            CalibrateOptions(
                checkpoint=options.checkpoint,
                output=folder,
                data=options.data,
                samples=options.calibration_samples,
                method=options.method or "auto",
                graphs=_quantized_graphs(run),
                image_size=options.image_size,
                revision=options.revision,
                accept_config=options.accept_config,
                state_dict=options.state_dict,
            ),
            run.progress,
        )
        staging.finish("ranges", {})
    return folder


def _judge(run: ExportRun, ranges: Ranges, notes: list[str]) -> Judge | None:
    """Return who tells the drop, or None with a note where there is nothing to tell it on."""
    options = run.options
    source = options.data or str(ranges.info.data[0]["source"])
    if options.gate_samples == 0 or EXPORTED_AS[IMAGE_ENCODER] not in run.graphs or source == RANDOM:
        notes.append("accuracy: not measured; give --data with pictures, --gate-samples and the vision graph")
        return None
    try:
        data = open_data(Path(source))
    except InputError as error:
        notes.append(f"accuracy: not measured ({error})")
        return None
    calibrated = sum(int(part["pictures"]) for part in ranges.info.data)
    reference = torch_run(run.config, run.sources, None)
    held = held_out(data, calibrated, options.gate_samples)
    return Judge(held, run.config, run.graphs, run.tokenizer, reference)


def _values(sources: Mapping[str, Source]) -> int:
    return sum(int(np.prod(source.shape, dtype=np.int64)) for source in sources.values())
