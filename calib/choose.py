"""Choose a recipe: decide every site, then keep the fewest sites in high precision that pass the accuracy gate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from internvl_edge.calib.data.calibration import RANDOM
from internvl_edge.calib.data.dataset import open_data
from internvl_edge.calib.gate.accuracy import AccuracyGate, RunGraph, held_out
from internvl_edge.calib.gate.sensitivity import Damage, rank
from internvl_edge.calib.model import CalibrationModel
from internvl_edge.calib.qdq.fp8_attention import FEWEST_KEYS
from internvl_edge.calib.quantize import keep_high, make_recipe
from internvl_edge.calib.ranges.stored import Ranges, check_fits
from internvl_edge.calib.recipes.decide import Rules
from internvl_edge.calib.recipes.recipe import AttentionRange, Recipe
from internvl_edge.runtime.bundle.graph_roles import EXPORTED_AS, IMAGE_ENCODER
from internvl_edge.runtime.errors import CalibrationError, InputError
from internvl_edge.runtime.numbers.formats import QUANTIZED
from internvl_edge.runtime.progress import Progress

_SMALL_VALUES = 1_000_000_000
"""Number of weights below which sensitivity is always measured: each site takes one run of the model."""

Inputs = Callable[[str], Mapping[str, np.ndarray]]
"""Function that returns the inputs of a graph, by its name, on which sensitivity is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionOptions:
    """Settings of a quantization: what is quantized, how, and which loss of accuracy is allowed."""

    graphs: tuple[str, ...]
    """Names of the graphs in the bundle."""
    precision: str
    dtype: str
    """Type of the scales and of everything in high precision, as torch names it."""
    method: str | None
    """Method that chooses clipping thresholds; None: the method stored with the ranges."""
    smooth: str
    """Smoothing: ``auto``, ``off``, or SmoothQuant's alpha."""
    fp8_attention: bool
    high: Mapping[str, str]
    """Names of the sites that stay in high precision, each with the reason."""
    data: str | None
    """Data set that accuracy is measured on; None: the one that the ranges were measured on."""
    gate_samples: int
    """Number of pictures for the gate; 0: no gate."""
    max_drop: float
    """Largest loss in percentage points of the mean metric."""
    budget_layers: int | None
    """Largest number of sites kept in high precision to pass the gate; None: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The chosen recipe, and the measurements that it was chosen by."""

    recipe: Recipe
    ranges: Ranges
    damages: Sequence[Damage]
    """Sensitivity of each quantized site, the most sensitive first; empty where it was not measured."""
    gate: AccuracyGate | None
    """The gate that the written graphs have to pass; None: accuracy is not measured."""
    notes: list[str] = field(default_factory=list)


def choose_precision(
    model: CalibrationModel, ranges: Ranges, options: PrecisionOptions, inputs: Inputs, progress: Progress
) -> Precision:
    """Decide the recipe from `ranges`, then keep sites in high precision until the accuracy gate is passed.

    Raises:
        CalibrationError: the ranges belong to another model or lack a graph.
    """
    check_fits(ranges, model.fingerprint, model.pictures.image_size, model.name)
    quantized = [name for name in options.graphs if model.is_quantized(name)]
    if absent := sorted(set(quantized) - set(ranges.info.graphs)):
        raise CalibrationError(f"{ranges.folder}: did not measure {', '.join(absent)}; calibrate with these graphs")
    recipe = make_recipe(model, ranges, _rules(options, ranges), options.high, progress)
    notes: list[str] = []
    recipe = replace(recipe, attention=with_enough_keys(recipe.attention, model, notes))
    gate = _accuracy_gate(model, ranges, options, notes)
    missed = gate is not None and not gate.measure(run_with(model, recipe), progress).drop <= options.max_drop
    damages: Sequence[Damage] = ()
    if options.gate_samples == 0:
        notes.append("sensitivity: not measured, since there is no gate (--gate-samples 0)")
    elif missed or _values(model) < _SMALL_VALUES:
        damages = rank(recipe, model, ranges, _sensitivity_inputs(quantized, inputs, progress), progress)
    else:
        notes.append("sensitivity: not measured, since the gate was passed and the model is large")
    if missed and gate is not None:
        recipe = fewest_high(recipe, damages, options, gate, model, ranges)
    return Precision(recipe=recipe, ranges=ranges, damages=damages, gate=gate, notes=notes)


def with_enough_keys(
    attention: Mapping[str, Mapping[str, AttentionRange]], model: CalibrationModel, notes: list[str]
) -> dict[str, dict[str, AttentionRange]]:
    """Return the attentions that remain one kernel when they are quantized; `notes` gets the number of the others."""
    found = {
        graph: {path: held for path, held in ranges.items() if model.fewest_rows(graph, path) >= FEWEST_KEYS}
        for graph, ranges in attention.items()
    }
    for graph, ranges in attention.items():
        if few := len(ranges) - len(found[graph]):
            notes.append(f"{graph}: {few} attentions stay high: calls may see fewer than {FEWEST_KEYS} rows")
    return found


def fewest_high(
    recipe: Recipe,
    damages: Sequence[Damage],
    options: PrecisionOptions,
    gate: AccuracyGate,
    model: CalibrationModel,
    ranges: Ranges,
) -> Recipe:
    """Return `recipe` with the fewest of the most sensitive sites in high precision that pass the gate.

    The number is found by doubling and bisection, one run of the gate for each trial. If no number within the budget
    passes, all sites of the budget are kept in high precision.
    """
    limit = len(damages) if options.budget_layers is None else min(options.budget_layers, len(damages))

    def kept(count: int) -> Recipe:
        worst = {d.site: f"alone it leaves {d.sqnr_db:.1f} dB of {d.graph}" for d in damages[:count]}
        return keep_high(recipe, worst, model, ranges)

    def passes(count: int) -> bool:
        return gate.measure(run_with(model, kept(count))).drop <= options.max_drop

    failing, count = 0, min(1, limit)
    while count < limit and not passes(count):
        failing, count = count, min(2 * count, limit)
    while count - failing > 1:
        middle = (failing + count) // 2
        failing, count = (failing, middle) if passes(middle) else (middle, count)
    return kept(count)


def run_with(model: CalibrationModel, recipe: Recipe | None) -> RunGraph:
    """Return a function that runs a graph of `model`, quantized as `recipe` says."""
    return partial(model.run, recipe=recipe)


def _rules(options: PrecisionOptions, ranges: Ranges) -> Rules:
    return Rules(
        precision=QUANTIZED[options.precision],
        dtype=options.dtype,
        method=options.method or ranges.info.method,
        smooth=options.smooth if options.smooth in ("auto", "off") else float(options.smooth),
        fp8_attention=options.fp8_attention,
    )


def _sensitivity_inputs(
    graphs: Sequence[str], inputs: Inputs, progress: Progress
) -> dict[str, Mapping[str, np.ndarray]]:
    found = {}
    with progress.task("Computing inputs", len(graphs), "graphs") as advance:
        for name in graphs:
            found[name] = inputs(name)
            advance(1)
    return found


def _accuracy_gate(
    model: CalibrationModel, ranges: Ranges, options: PrecisionOptions, notes: list[str]
) -> AccuracyGate | None:
    """Return the accuracy gate, or None and a note where there is no data or graph to measure accuracy with."""
    source = options.data or str(ranges.info.data[0]["source"])
    if options.gate_samples == 0 or EXPORTED_AS[IMAGE_ENCODER] not in options.graphs or source == RANDOM:
        notes.append("accuracy: not measured; give --data with pictures, --gate-samples and the vision graph")
        return None
    try:
        data = open_data(Path(source))
    except InputError as error:
        notes.append(f"accuracy: not measured ({error})")
        return None
    calibrated = sum(int(part["pictures"]) for part in ranges.info.data)
    return AccuracyGate(held_out(data, calibrated, options.gate_samples), model, options.graphs, run_with(model, None))


def _values(model: CalibrationModel) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in model.shapes.values())
