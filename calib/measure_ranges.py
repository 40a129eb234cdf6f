"""Measure the ranges of a model: all samples pass through it block by block, and every block's statistics are kept."""

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
"""How much work a kill may cost; the streams of 128 pictures of a 6 B tower are 421 MB, saved in half a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeOptions:
    """What is measured on, and how."""

    data: str
    """A folder, a JSONL, or the word ``random``."""
    samples: int
    method: str
    """Rule for clips that is noted with the ranges."""
    graphs: tuple[str, ...] | None
    """None: all of the model."""
    compute: str
    """Type of the matrix products: ``auto``, ``fp32`` or ``bf16``."""
    producer: Mapping[str, str]
    code: str
    """What measures: versions, and a digest of the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeMeasurement:
    """The samples in front of the first block, and what will have been measured when they are through."""

    model: CalibrationModel
    forward: BlockwiseForward
    info: RangesInfo


def start_measurement(model: CalibrationModel, options: RangeOptions) -> RangeMeasurement:
    """Read the samples, and bring them to the inputs of `model`.

    Raises:
        CalibrationError: samples that nothing can be measured on.
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
    """Take the samples through all blocks; write each block's statistics to `folder`, and last what they are of.

    From time to time the place and the streams are saved there: another run of the same measurement goes on from them.
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
    """Return the type of the matrix products: bf16 if asked for, or if the CPU multiplies it in hardware."""
    wide = compute == "fp32" or (compute == "auto" and not multiplies_bf16())
    return "float32" if wide else "bfloat16"


def _save_state(forward: BlockwiseForward, folder: Path) -> None:
    temporary = folder / f"{_STATE}.tmp"
    save_file(dict(forward.states), temporary, {"position": str(forward.position)})
    temporary.replace(folder / _STATE)


def _resume(forward: BlockwiseForward, folder: Path) -> None:
    """Go on where an earlier run saved its place: what it measured up to there lies beside."""
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
