"""Ranges on disk: a folder with one file of statistics for each block, and ranges.json, which describes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from internvl_edge.calib.ranges.collector import KEPT_ROWS, Key
from internvl_edge.calib.ranges.observer import Statistics, from_arrays, merge_statistics, to_arrays
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.outputs.strict_json import json_text

SCHEMA = 2
"""Version of the description. Fingerprints of version 1 were made of another form of the config."""
MARKER = "ranges.json"
"""Name of the description, which is written last: a folder without it is incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangesInfo:
    """Description of the measurement: checkpoint, data, settings and versions."""

    checkpoint: str
    """Name of the checkpoint as the user gave it; `fingerprint` identifies its weights."""
    fingerprint: str
    image_size: int
    data: tuple[Mapping[str, Any], ...]
    """For each part of the data: source, sha256, pictures, texts, unreadable."""
    method: str
    compute: str
    producer: Mapping[str, str]
    code: str
    """Digest of the code that measured."""
    graphs: tuple[str, ...]
    blocks: tuple[str, ...]
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Ranges:
    """An opened folder of ranges; statistics are read block by block."""

    folder: Path
    info: RangesInfo

    def block(self, path: str) -> dict[Key, Statistics]:
        """Return the statistics of block `path`, by graph and tensor.

        Raises:
            CalibrationError: the block was not measured, or its file is damaged.
        """
        file = block_file(self.folder, path)
        if not file.exists():
            raise CalibrationError(f"{self.folder}: has no statistics of {path}; calibrate this checkpoint again")
        try:
            arrays = load_file(file)
        except SafetensorError as error:
            raise CalibrationError(f"{file}: is damaged ({error}); calibrate again") from error
        keys = {name.rpartition("/")[0] for name in arrays}
        return {_key(name): from_arrays(name, arrays) for name in sorted(keys)}


def open_ranges(folder: Path) -> Ranges:
    """Open a folder that `calibrate` wrote.

    Raises:
        CalibrationError: it is no such folder, damaged, or of another schema.
    """
    marker = folder / MARKER
    if not marker.exists():
        raise CalibrationError(f"{folder}: no {MARKER} in it; give a folder that internvl-edge calibrate wrote")
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CalibrationError(f"{marker}: is damaged ({error}); calibrate again") from error
    if content.get("schema") != SCHEMA:
        raise CalibrationError(
            f"{folder}: schema {content.get('schema')}, this version reads {SCHEMA}; calibrate again"
        )
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Ranges(folder, RangesInfo(**fields))


def save_block(folder: Path, path: str, found: Mapping[Key, Statistics]) -> None:
    """Write the statistics of block `path`; the file appears whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    for (graph, name), seen in found.items():
        arrays |= to_arrays(f"{graph}|{name}", seen)
    file = block_file(folder, path)
    temporary = file.with_suffix(".tmp")
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary)
    temporary.replace(file)


def save_info(folder: Path, info: RangesInfo) -> None:
    """Write the description of the ranges, which must be the last file."""
    text = json_text(asdict(info))
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def block_file(folder: Path, path: str) -> Path:
    """Return the file of the statistics of block `path`."""
    return folder / f"{path}.safetensors"


def check_fits(ranges: Ranges, fingerprint: str, image_size: int, checkpoint: str) -> None:
    """Check that the ranges are of these weights and this picture size.

    Raises:
        CalibrationError: they are not; both sides are named.
    """
    info = ranges.info
    if info.fingerprint != fingerprint:
        raise CalibrationError(
            f"{ranges.folder}: measured on {info.checkpoint} ({info.fingerprint[:12]}), not on {checkpoint} "
            f"({fingerprint[:12]}); calibrate this checkpoint"
        )
    if info.image_size != image_size:
        raise CalibrationError(
            f"{ranges.folder}: measured at {info.image_size} px, the export is at {image_size} px; "
            f"calibrate with --image-size {image_size}"
        )


def merge_ranges(shards: Sequence[Ranges], folder: Path) -> RangesInfo:
    """Write the ranges of one run over the data of all shards into `folder`, and return their description.

    Raises:
        CalibrationError: the shards are of different weights, picture sizes, graphs or arithmetic.
    """
    first = shards[0].info
    for shard in shards[1:]:
        check_fits(shard, first.fingerprint, first.image_size, first.checkpoint)
        found, wanted = (shard.info.graphs, shard.info.compute), (first.graphs, first.compute)
        if found != wanted:
            raise CalibrationError(
                f"{shard.folder}: measured {found}, {shards[0].folder} measured {wanted}; use equal settings"
            )
    digests = [entry["sha256"] for shard in shards for entry in shard.info.data]
    if len(set(digests)) < len(digests):
        raise CalibrationError("--merge: two shards are of the same data; give each part of the data once")
    for path in first.blocks:
        parts = [shard.block(path) for shard in shards]
        save_block(
            folder,
            path,
            {key: merge_statistics([part[key] for part in parts], KEPT_ROWS) for key in parts[0]},
        )
    data = tuple(entry for shard in shards for entry in shard.info.data)
    fields = {name: getattr(first, name) for name in RangesInfo.__slots__}
    return RangesInfo(**{**fields, "data": data})


def _key(name: str) -> Key:
    graph, _, tensor = name.partition("|")
    return graph, tensor
