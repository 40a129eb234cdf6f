"""Measure the ranges of a checkpoint: what `internvl-edge calibrate` does, step by step."""

import time
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.calib.measure_ranges import RangeOptions, run_measurement, start_measurement
from internvl_edge.calib.ranges.stored import MARKER, RangesInfo, merge_ranges, open_ranges, save_info
from internvl_edge.calib.recipes.thresholds import unknown_method
from internvl_edge.export.blockwise.model import BlockwiseModel
from internvl_edge.export.blockwise.sources import stored_shapes
from internvl_edge.export.blockwise.threads import fitting_threads
from internvl_edge.export.checkpoint import Checkpoint, open_checkpoint
from internvl_edge.export.checkpoint.required_tensors import require_tensors
from internvl_edge.export.models.graphs import needs_language, unknown_graphs
from internvl_edge.export.models.resolution import at_image_size
from internvl_edge.export.run.producer import code_digest, producer
from internvl_edge.export.run.run_key import calibrate_key, program_parts, ranges_parts
from internvl_edge.export.run.staging import staged
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.progress import Progress, Silent


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """Options of one calibration and their defaults."""

    checkpoint: str
    output: Path
    data: str | None = None
    """Folder or JSONL of the samples, or the word ``random``; None only with `merge`."""
    sample_count: int = 128
    method: str = "auto"
    graphs: tuple[str, ...] | None = None
    image_size: int | None = None
    compute: str = "auto"
    """Type of the matrix products; ``auto`` is bf16 on a CPU that has it and fp32 on any other."""
    merge: tuple[Path, ...] = ()
    """Folders of measured ranges that are merged; nothing is measured then."""
    revision: str | None = None
    accept_config: tuple[str, ...] = ()
    """Unknown fields of the checkpoint's files that the user declares to have no effect on the model."""
    state_dict: str | None = None
    """Name of the set of weights to read from a checkpoint that holds several, for example ``model_ema``."""

    def __post_init__(self) -> None:
        """Check the options as far as that needs no files.

        Raises:
            CalibrationError: with all findings in one line.
        """
        wrong = unknown_method(self.method)
        if self.compute not in ("auto", "fp32", "bf16"):
            wrong.append(f"--compute {self.compute}: unknown; choose auto, fp32 or bf16")
        wrong += unknown_graphs(self.graphs)
        if (self.data is None) == (not self.merge):
            wrong.append("--data or --merge: give one of them")
        if wrong:
            raise CalibrationError("; ".join(wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateReport:
    """Result of a calibration: the folder of the ranges, their description, and the time that it took."""

    output: Path
    info: RangesInfo
    seconds: float


def calibrate(options: CalibrateOptions, progress: Progress | None = None) -> CalibrateReport:
    """Write the ranges of `options.checkpoint` to `options.output`; the folder appears whole or not at all.

    Raises:
        EdgeError: the checkpoint, the data or a measured value is not valid.
    """
    started = time.monotonic()
    checkpoint = open_checkpoint(
        options.checkpoint,
        options.revision,
        options.accept_config,
        options.state_dict,
        needs_language(options.graphs),
    )
    require_tensors(checkpoint.tensors, stored_shapes(checkpoint.config))
    config = at_image_size(checkpoint.config, options.image_size)
    if options.merge:
        info = _merge(options)
    else:
        model = BlockwiseModel(options.checkpoint, checkpoint, config)
        with fitting_threads(checkpoint.tensors.values()):
            info = measure_ranges(model, checkpoint, options, progress or Silent())
    return CalibrateReport(output=options.output, info=info, seconds=time.monotonic() - started)


def measure_ranges(
    model: BlockwiseModel, checkpoint: Checkpoint, options: CalibrateOptions, progress: Progress
) -> RangesInfo:
    """Measure the ranges of the opened `model` and write them to `options.output`.

    Raises:
        EdgeError: the data or a measured value is not valid.
    """
    assert options.data is not None
    measured = RangeOptions(
        data=options.data,
        samples=options.sample_count,
        method=options.method,
        graphs=options.graphs,
        compute=options.compute,
        producer=producer(),
        code=code_digest(),
    )
    measurement = start_measurement(model, measured)
    key = calibrate_key(checkpoint, model.config, measurement.info)
    with staged(options.output, key, "ranges", MARKER) as staging:
        run_measurement(measurement, staging.folder, progress)
    return measurement.info


def _merge(options: CalibrateOptions) -> RangesInfo:
    shards = [open_ranges(folder) for folder in options.merge]
    if len(shards) < 2:
        raise CalibrationError("--merge: one shard is nothing to merge; give at least two")
    key = {str(shard.folder): (shard.info, ranges_parts(shard.folder)) for shard in shards} | program_parts()
    with staged(options.output, key, "ranges", MARKER) as staging:
        info = merge_ranges(shards, staging.folder)
        save_info(staging.folder, info)
    return info
