"""Measure the ranges of a model: run all samples block by block, and write the statistics of each block."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file

from internvl_edge.calib.data.calibration import CalibrationData, load_data, model_inputs
from internvl_edge.calib.model import BlockwiseForward, CalibrationModel
from internvl_edge.calib.ranges.collector import Collector
from internvl_edge.calib.ranges.stored import RangesInfo, save_block, save_info
from internvl_edge.runtime.backends.lowering.processor import multiplies_bf16
from internvl_edge.runtime.progress import Progress

_STATE = "state.safetensors"
_SAVED_EVERY_SECONDS = 20.0
"""Longest time between two saved states, and so the work that is lost when the process is killed.

A state of 128 pictures in a 6 B tower is 421 MB, which is saved in half a second.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeOptions:
    """Settings of a measurement of ranges."""

    data: str
    """Folder, table or archive of pictures, or the word ``random``."""
    samples: int
    """Number of pictures."""
    method: str
    """Method that chooses clipping thresholds; it is stored with the ranges for the export."""
    graphs: tuple[str, ...] | None
    """Names of the graphs to measure; None: all graphs of the model."""
    compute: str
    """Type of the matrix products: ``auto``, ``fp32`` or ``bf16``."""
    producer: Mapping[str, str]
    """Versions of this package and of the libraries that measure."""
    code: str
    """Digest of the code that measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeMeasurement:
    """A blockwise forward before its first block, and the description of the ranges that it will give."""

    model: CalibrationModel
    forward: BlockwiseForward
    info: RangesInfo


def start_measurement(model: CalibrationModel, options: RangeOptions) -> RangeMeasurement:
    """Read the samples and convert them to the inputs of `model`.

    Raises:
        CalibrationError: there are too few samples, or they cannot be read.
    """
    data = load_data(options.data, model.pictures, options.samples)
    inputs = model_inputs(data, model.tokenizer, model.vocabulary)
    graphs = tuple(name for name in model.graphs if options.graphs is None or name in options.graphs)
    compute = compute_type(options.compute)
    forward = model.blockwise_forward(inputs, graphs, compute)
    info = RangesInfo(
        checkpoint=model.name,
        fingerprint=model.fingerprint,
        image_size=model.pictures.image_size,
        data=(_identity(data),),
        method=options.method,
        compute=compute,
        producer=options.producer,
        code=options.code,
        graphs=graphs,
        blocks=tuple(forward.blocks),
    )
    return RangeMeasurement(model=model, forward=forward, info=info)


def run_measurement(measurement: RangeMeasurement, folder: Path, progress: Progress) -> None:
    """Run all blocks; write the statistics of each block to `folder`, and last the description of the ranges.

    The position and the residual streams are saved there from time to time, so that a run of the same measurement
    continues from them.
    """
    forward, blocks = measurement.forward, measurement.model.blocks
    _resume(forward, folder)
    saved = time.monotonic()
    with progress.task("Measuring ranges", len(forward.blocks), "blocks") as advance:
        advance(forward.position)
        while forward.position < len(forward.blocks):
            path = forward.blocks[forward.position]
            collector = Collector(blocks.get(path, ()), forward.samples)
            forward.step(collector)
            save_block(folder, path, collector.statistics())
            advance(1)
            if time.monotonic() - saved > _SAVED_EVERY_SECONDS and forward.position < len(forward.blocks):
                _save_state(forward, folder)
                saved = time.monotonic()
    (folder / _STATE).unlink(missing_ok=True)
    save_info(folder, measurement.info)


def compute_type(compute: str) -> str:
    """Return the type of matrix products as torch names it: with auto bf16 if the CPU multiplies it in hardware."""
    wide = compute == "fp32" or (compute == "auto" and not multiplies_bf16())
    return "float32" if wide else "bfloat16"


def _save_state(forward: BlockwiseForward, folder: Path) -> None:
    temporary = folder / f"{_STATE}.tmp"
    save_file(dict(forward.states), temporary, {"position": str(forward.position)})
    temporary.replace(folder / _STATE)


def _resume(forward: BlockwiseForward, folder: Path) -> None:
    """Continue from the state that an earlier run saved, if there is one; the statistics up to it are in the folder."""
    file = folder / _STATE
    if file.exists():
        with safe_open(file, "pt") as saved:
            names = list(saved.keys())
            forward.resume(int(saved.metadata()["position"]), {name: saved.get_tensor(name) for name in names})


def _identity(data: CalibrationData) -> dict[str, object]:
    return {
        "source": data.source,
        "sha256": data.sha256,
        "pictures": int(np.shape(data.pixel_values)[0]),
        "texts": len(data.texts) + len(data.class_texts),
        "unreadable": list(data.unreadable),
    }
