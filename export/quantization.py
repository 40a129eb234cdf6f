"""The stages of an export that are about numbers of few bits: what calibration is given, and what it decides."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from internvl_edge.calib.choose import Inputs, Precision, PrecisionOptions, choose_precision
from internvl_edge.calib.gate.accuracy import AccuracyGate
from internvl_edge.calib.gate.result import GateResult
from internvl_edge.calib.ranges.stored import open_ranges
from internvl_edge.export.calibrate import CalibrateOptions, measure_ranges
from internvl_edge.export.check.verify_graph import onnx_outputs
from internvl_edge.export.run.export_run import ExportRun
from internvl_edge.export.run.staging import Staging
from internvl_edge.runtime.progress import Progress

RANGES = "ranges"
"""Folder of the staging area for ranges that are measured on the way; what was decided from them ships."""


def quantize_run(run: ExportRun, staging: Staging, inputs: Inputs) -> Precision:
    """Decide the recipe of an export on ranges that are given or measured now; `inputs` tell the damage of sites.

    Raises:
        CalibrationError: ranges of something else, or that lack a graph; patterns that match nothing.
    """
    options = run.options
    ranges = open_ranges(options.ranges or _measured(run, staging))
    wanted = PrecisionOptions(
        graphs=run.graphs,
        precision=str(options.precision),
        dtype=run.dtype,
        method=options.method,
        smooth=options.smooth,
        fp8_attention=options.fp8_attention,
        keep_high=options.keep_high,
        data=options.data,
        gate_samples=options.gate_samples,
        max_drop=options.max_drop,
        budget_layers=options.budget_layers,
    )
    return choose_precision(run.model, ranges, wanted, inputs, run.progress)


def run_gate(accuracy_gate: AccuracyGate, folder: Path, progress: Progress) -> GateResult:
    """Return what the written graphs in `folder` lose."""

    def run(graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return onnx_outputs(folder / f"{graph}.onnx", inputs)

    return accuracy_gate.measure(run, progress)


def _measured(run: ExportRun, staging: Staging) -> Path:
    """Return the ranges of this run's data, measuring them unless an earlier run has."""
    options, folder = run.options, staging.folder / RANGES
    if staging.finished("ranges") is None:
        asked = CalibrateOptions(
            checkpoint=options.checkpoint,
            output=folder,
            data=options.data,
            samples=options.calibration_samples,
            method=options.method or "auto",
            graphs=tuple(name for name in run.graphs if run.model.is_quantized(name)),
        )
        measure_ranges(run.model, run.checkpoint, asked, run.progress)
        staging.finish("ranges", {})
    return folder
