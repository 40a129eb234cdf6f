"""The stages of an export that quantize: calibration with this run's options, and the accuracy gate."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from internvl_edge.calib.choose import Inputs, Precision, PrecisionOptions, choose_precision
from internvl_edge.calib.gate.accuracy import AccuracyGate
from internvl_edge.calib.gate.result import GateResult
from internvl_edge.calib.quantize import matching_sites
from internvl_edge.calib.ranges.stored import open_ranges
from internvl_edge.export.calibrate import CalibrateOptions, measure_ranges
from internvl_edge.export.check.verify_graph import onnx_outputs
from internvl_edge.export.run.export_run import ExportRun
from internvl_edge.export.run.staging import Staging
from internvl_edge.runtime.progress import Progress

RANGES = "ranges"
"""Folder in the staging area for ranges measured during the export; the recipe made from them ships instead."""


def quantize_run(run: ExportRun, staging: Staging, inputs: Inputs) -> Precision:
    """Return the recipe of an export, made from given ranges or from ranges measured now.

    `inputs` gives the inputs of each graph on which the damage of quantizing a site is measured.

    Raises:
        CalibrationError: the ranges belong to another model or lack a graph, or a pattern matches no site.
    """
    options = run.options
    # Patterns are checked first, because ranges may take hours to measure.
    high = matching_sites(options.keep_high, [site for sites in run.model.blocks.values() for site in sites])
    ranges = open_ranges(options.ranges or _measured(run, staging))
    wanted = PrecisionOptions(
        graphs=run.graphs,
        precision=str(options.precision),
        dtype=run.dtype,
        method=options.method,
        smooth=options.smooth,
        fp8_attention=options.fp8_attention,
        high=high,
        data=options.data,
        gate_samples=options.gate_samples,
        max_drop=options.max_drop,
        budget_layers=options.budget_layers,
    )
    return choose_precision(run.model, ranges, wanted, inputs, run.progress)


def run_gate(accuracy_gate: AccuracyGate, folder: Path, progress: Progress) -> GateResult:
    """Return the accuracy that the written graphs in `folder` lose."""

    def run(graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return onnx_outputs(folder / f"{graph}.onnx", inputs)

    return accuracy_gate.measure(run, progress)


def _measured(run: ExportRun, staging: Staging) -> Path:
    """Return the folder of ranges of this run's data; they are measured unless an earlier run has done so."""
    options, folder = run.options, staging.folder / RANGES
    if staging.finished("ranges") is None:
        asked = CalibrateOptions(
            checkpoint=options.checkpoint,
            output=folder,
            data=options.data,
            sample_count=options.calibration_samples,
            method=options.method or "auto",
            graphs=tuple(name for name in run.graphs if run.model.is_quantized(name)),
        )
        measure_ranges(run.model, run.checkpoint, asked, run.progress)
        staging.finish("ranges", {})
    return folder
