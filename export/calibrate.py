"""Measure the ranges of a checkpoint: `internvl-edge calibrate`, top to bottom."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from internvl_edge.calib.collector import Collector
from internvl_edge.calib.ranges import MARKER, RangesInfo, merge_ranges, open_ranges, save_block, save_info
from internvl_edge.calib.thresholds import METHODS
from internvl_edge.export.accounting import account
from internvl_edge.export.calibration_data import CalibrationData, load_data, walk_inputs
from internvl_edge.export.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from internvl_edge.export.checkpoint.files.tensors import LazyTensor
from internvl_edge.export.config import ModelConfig
from internvl_edge.export.models.graphs import GRAPH_NAMES, GRAPHS, available_graphs
from internvl_edge.export.producer import code_digest, producer
from internvl_edge.export.resolution import at_image_size
from internvl_edge.export.run_key import calibrate_key, program_parts, ranges_parts
from internvl_edge.export.sites import block_of, model_sites
from internvl_edge.export.sources import fetch_from, stored_shapes, weight_sources
from internvl_edge.export.staging import Staging, staged
from internvl_edge.export.walk import Walk, WalkInputs
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.lowering.processor import multiplies_bf16
from internvl_edge.runtime.preprocess import Preprocessing
from internvl_edge.runtime.progress import Progress, Silent
from internvl_edge.runtime.tokenizer import Tokenizer

_STATE = "state.safetensors"
_SAVED_EVERY_SECONDS = 20.0
"""How much work a kill may cost; the streams of 128 pictures of a 6 B tower are 421 MB, saved in half a second."""
_FINGERPRINT_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """One calibration; defaults live here alone."""

    checkpoint: str
    output: Path
    data: str | None = None
    """A folder, a JSONL, or the word ``random``; None only with `merge`."""
    samples: int = 128
    method: str = "auto"
    graphs: tuple[str, ...] | None = None
    image_size: int | None = None
    compute: str = "auto"
    """Type of the matrix products: bf16 where the CPU has it, fp32 elsewhere."""
    merge: tuple[Path, ...] = ()
    """Ranges to merge instead of measuring."""
    revision: str | None = None
    accept_config: tuple[str, ...] = ()
    """Unknown fields of the checkpoint's files that have no effect on the model."""
    state_dict: str | None = None
    """Which set of weights is meant where the checkpoint holds several, as ``model_ema``."""

    def __post_init__(self) -> None:
        """Check what can be checked before anything is open.

        Raises:
            CalibrationError: all that is wrong, in one line.
        """
        wrong = []
        if self.method not in METHODS:
            wrong.append(f"--method {self.method}: unknown; choose from {', '.join(METHODS)}")
        if self.compute not in ("auto", "fp32", "bf16"):
            wrong.append(f"--compute {self.compute}: unknown; choose auto, fp32 or bf16")
        if unknown := [name for name in self.graphs or () if name not in GRAPH_NAMES]:
            wrong.append(f"--graphs {','.join(unknown)}: unknown; choose from {', '.join(GRAPH_NAMES)}")
        if (self.data is None) == (not self.merge):
            wrong.append("--data or --merge: give one of them")
        if wrong:
            raise CalibrationError("; ".join(wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateReport:
    """What was measured."""

    output: Path
    info: RangesInfo
    seconds: float


def calibrate(options: CalibrateOptions, progress: Progress | None = None) -> CalibrateReport:
    """Write the ranges of `options.checkpoint` to `options.output`; the folder appears whole or not at all.

    Raises:
        EdgeError: the checkpoint, the data or a value on the way is not right, in one line.
    """
    started = time.monotonic()
    checkpoint = open_checkpoint(options.checkpoint, options.revision, options.accept_config, options.state_dict)
    account(checkpoint.tensors, stored_shapes(checkpoint.config))
    config = at_image_size(checkpoint.config, options.image_size)
    info = _merge(options) if options.merge else _measure(options, checkpoint, config, progress or Silent())
    return CalibrateReport(output=options.output, info=info, seconds=time.monotonic() - started)


def fingerprint(tensors: Sequence[StoredTensor], config: ModelConfig) -> str:
    """Return the identity of a checkpoint: names, types, shapes and the first bytes of every tensor, and its config.

    Of the config it is all but the picture size, which is compared apart, so that the error can say what to do. The
    strength of adapters is part of it, and pictures that are prepared in another way than the reference's.
    """
    digest, pictures = hashlib.sha256(), config.pictures
    vision = {name: value for name, value in asdict(config.vision).items() if name != "image_size"}
    digest.update(repr((vision, config.qllama, config.pool_heads, config.connector)).encode())
    if pictures != Preprocessing(image_size=pictures.image_size):
        digest.update(repr(pictures).encode())
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}".encode())
        if not isinstance(tensor, LazyTensor):
            digest.update(f"{tensor.scale}".encode())
        for part in [tensor] if isinstance(tensor, LazyTensor) else [tensor.base, tensor.down, tensor.up]:
            with part.file.open("rb") as file:
                file.seek(part.offset)
                digest.update(file.read(min(part.nbytes, _FINGERPRINT_BYTES)))
    return digest.hexdigest()


def compute_type(compute: str) -> torch.dtype:
    """Return the type of the matrix products: bf16 if asked for, or if the CPU multiplies it in hardware."""
    if compute == "auto":
        return torch.bfloat16 if multiplies_bf16() else torch.float32
    return torch.bfloat16 if compute == "bf16" else torch.float32


def _measure(options: CalibrateOptions, checkpoint: Checkpoint, config: ModelConfig, progress: Progress) -> RangesInfo:
    assert options.data is not None
    data = load_data(options.data, config.pictures, options.samples)
    tokenizer = Tokenizer(checkpoint.tokenizer_file) if checkpoint.tokenizer_file else None
    inputs = walk_inputs(data, tokenizer, config)
    graphs = tuple(name for name in available_graphs(config) if options.graphs is None or name in options.graphs)
    compute = compute_type(options.compute)
    fetch = fetch_from(weight_sources(checkpoint.tensors, config))
    walk = Walk(config, fetch, inputs, graphs, compute)
    identity = fingerprint(list(checkpoint.tensors.values()), config)
    info = RangesInfo(
        checkpoint=options.checkpoint,
        fingerprint=identity,
        image_size=config.vision.image_size,
        data=(_identity(data),),
        method=options.method,
        compute=str(compute).removeprefix("torch."),
        producer=producer(),
        code=code_digest(),
        graphs=graphs,
        blocks=tuple(walk.blocks),
    )
    with staged(options.output, calibrate_key(checkpoint, config, info), "ranges", MARKER) as staging:
        _collect(walk, config, inputs, staging, progress)
        save_info(staging.folder, info)
    return info


def _collect(walk: Walk, config: ModelConfig, inputs: WalkInputs, staging: Staging, progress: Progress) -> None:
    """Take the walk to its end, saving each block's statistics, and from time to time the place and the streams."""
    sites = model_sites(config)
    pictures = len(inputs.pixel_values)
    texts = len(inputs.text_ids) if inputs.text_ids is not None else 0
    samples = {row.name: texts if row.use.rows == "texts" else pictures for row in GRAPHS if row.quantized}
    _take_up(walk, staging)
    saved = time.monotonic()
    with progress.task("Measuring ranges", len(walk.blocks), "blocks") as advance:
        advance(walk.position)
        while not walk.done:
            path = walk.blocks[walk.position]
            collector = Collector([site for site in sites if block_of(site) == path], samples)
            walk.step(collector)
            save_block(staging.folder, path, collector.statistics())
            advance(1)
            if time.monotonic() - saved > _SAVED_EVERY_SECONDS and not walk.done:
                _save_place(walk, staging)
                saved = time.monotonic()
    (staging.folder / _STATE).unlink(missing_ok=True)


def _save_place(walk: Walk, staging: Staging) -> None:
    temporary = staging.folder / f"{_STATE}.tmp"
    save_file(walk.states, temporary, {"position": str(walk.position)})
    temporary.replace(staging.folder / _STATE)


def _take_up(walk: Walk, staging: Staging) -> None:
    """Go on where an earlier run saved its place: what it measured up to there lies beside."""
    file = staging.folder / _STATE
    if file.exists():
        with safe_open(file, "pt") as saved:
            names = list(saved.keys())
            walk.take_up(int(saved.metadata()["position"]), {name: saved.get_tensor(name) for name in names})


def _merge(options: CalibrateOptions) -> RangesInfo:
    shards = [open_ranges(folder) for folder in options.merge]
    if len(shards) < 2:
        raise CalibrationError("--merge: one shard is nothing to merge; give at least two")
    key = {str(shard.folder): (shard.info, ranges_parts(shard.folder)) for shard in shards} | program_parts()
    with staged(options.output, key, "ranges", MARKER) as staging:
        info = merge_ranges(shards, staging.folder)
        save_info(staging.folder, info)
    return info


def _identity(data: CalibrationData) -> dict[str, object]:
    return {
        "source": data.source,
        "sha256": data.sha256,
        "pictures": int(np.shape(data.pixel_values)[0]),
        "texts": len(data.texts) + len(data.class_texts),
        "unreadable": list(data.unreadable),
    }
