"""Keys of runs: an interrupted run is only continued by a run with the same key.

A key maps the name of each part that the result depends on to a value with a stable `repr`, so that a message can name
the parts that changed.
"""

import hashlib
import os
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from internvl_edge.calib.data.calibration import RANDOM
from internvl_edge.calib.data.dataset import open_data
from internvl_edge.calib.ranges.stored import MARKER, RangesInfo
from internvl_edge.export.checkpoint import Checkpoint
from internvl_edge.export.checkpoint.config.conversation import Conversation
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.export.run.producer import code_digest, producer
from internvl_edge.export.run.samples import Samples
from internvl_edge.runtime.bundle.bundle import sha256_file

_SMALL_BYTES = 1 << 20
"""Largest data file that is compared by content; its rows are compared for any size."""
_IN_PROGRAM = ("code", "producer")
"""Fields of `RangesInfo` that are part of `program_parts` already."""


def export_key(
    checkpoint: Checkpoint, config: ModelConfig, options: ExportOptions, samples: Samples
) -> dict[str, object]:
    """Return the key of an export: the program, all options, and the content of every file that is read."""
    data = Path(options.data) if options.data not in (None, RANDOM) else None
    pixels = hashlib.sha256(np.ascontiguousarray(samples.pixel_values).tobytes()).hexdigest()
    return {
        **program_parts(),
        **option_parts(options, "output"),
        **checkpoint_parts(checkpoint),
        **data_parts("--data", data),
        **ranges_parts(options.ranges),
        "the model": config,
        "the samples": (samples.pixel_values.shape, pixels, samples.texts),
    }


def conversation_parts(conversation: Conversation | None) -> dict[str, object]:
    """Return the parts of a key for how a chat checkpoint converses; none without a language model."""
    if conversation is None:
        return {}
    said = (conversation.chat, conversation.max_length, conversation.template)
    files = {f"the tokenizer's {path.name}": sha256_file(path) for path in conversation.files}
    return {"the conversation": said, **files}


def calibrate_key(checkpoint: Checkpoint, config: ModelConfig, info: RangesInfo) -> dict[str, object]:
    """Return the key of a calibration: the program, the checkpoint's files, and the description of the ranges."""
    described = {f"the {name}": value for name, value in asdict(info).items() if name not in _IN_PROGRAM}
    return {**program_parts(), **checkpoint_parts(checkpoint), "the model": config, **described}


def program_parts() -> dict[str, object]:
    """Return the parts of a key for the program: its code, and the version of every library."""
    return {"the program's code": code_digest(), **{f"{name}'s version": found for name, found in producer().items()}}


def option_parts(options: ExportOptions, *without: str) -> dict[str, object]:
    """Return the parts of a key for the options, by their names on the command line."""
    return {
        f"--{field.name.replace('_', '-')}": getattr(options, field.name)
        for field in fields(options)
        if field.name not in without
    }


def checkpoint_parts(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the parts of a key for a checkpoint's files: weights by `identity`, others by content."""
    weights = {part for tensor in checkpoint.tensors.values() for part in tensor.files}
    texts = {path.name: sha256_file(path) for path in checkpoint.text_files}
    return {**texts, **{os.path.relpath(path, checkpoint.folder): identity(path) for path in sorted(weights)}}


def data_parts(option: str, source: Path | None) -> dict[str, object]:
    """Return the part of a key for a folder, table or archive of pictures with their labels.

    Raises:
        InputError: there is no such file, or a row has no picture.
    """
    if source is None:
        return {}
    data = open_data(source)
    rows = [(row.file, row.picture.stamp(), row.captions(), row.group) for row in data.rows]
    own = sha256_file(source) if source.is_file() and source.stat().st_size < _SMALL_BYTES else identity(source)
    return {f"the content of {option}": (own if source.is_file() else "a folder", rows, data.prompts)}


def ranges_parts(folder: Path | None) -> dict[str, object]:
    """Return the part of a key for a folder of ranges: its description by content, its blocks by `identity`."""
    if folder is None or not (folder / MARKER).exists():
        return {}
    blocks = [(path.name, identity(path)) for path in sorted(folder.glob("*.safetensors"))]
    return {"the content of --ranges": (sha256_file(folder / MARKER), blocks)}


def identity(path: Path) -> tuple[str, int, int, int]:
    """Return path, size, time of change and inode of a file: they identify its content without reading it."""
    found = path.stat()
    return os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ino
