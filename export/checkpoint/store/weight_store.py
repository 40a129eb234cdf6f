"""Write the weight store of a bundle: decide where the bytes of each initializer are, and write them in one pass.

All graphs of a bundle refer to the same bytes. A file of the checkpoint whose tensors have the wanted type already is
shared where that takes no space: as a copy that shares its blocks on disk (``--weights auto``, on file systems that
can) or as a hard link (``--weights link``). The graphs then read its tensors by offset. All other tensors, which are
converted, merged, interpolated or computed, are written once to ``weights.safetensors``.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from internvl_edge.export.checkpoint.files.tensors import TORCH_DTYPES, LazyTensor
from internvl_edge.export.checkpoint.required_tensors import non_finite
from internvl_edge.export.checkpoint.store.source_scan import SourceScan
from internvl_edge.export.checkpoint.store.weight_sources import (
    QuantizedTensor,
    Source,
    readable_in_place,
    stored_chunks,
)
from internvl_edge.runtime.bundle.manifest import FileInfo
from internvl_edge.runtime.errors import CheckpointError, ExportError
from internvl_edge.runtime.file_copy import copy_file, share_blocks
from internvl_edge.runtime.numbers.tensor_types import TENSOR_TYPES, TensorType

STORE_NAME = "weights.safetensors"
_WRITE_BYTES = 128 << 10
"""Bytes of one write call: Linux (6.18, ext4) needs two to three times as long per byte for 512 KiB and more."""
Progress = Callable[[int], object]
"""Callback with the number of bytes that were handled since the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Place of one initializer: a file beside the graphs, and a byte range in it."""

    location: str
    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlan:
    """Plan of a store that is not written yet."""

    dtype: str
    placements: Mapping[str, Placement]
    files: Mapping[str, Path]
    """File name beside the graphs -> the checkpoint's file that is shared under this name."""
    shared: tuple[LazyTensor, ...]
    written: tuple[Source, ...]
    """Tensors to write to `STORE_NAME`, in the order of their offsets."""

    @property
    def bytes_to_read(self) -> int:
        """Number of bytes that `write_store` handles, for a progress bar."""
        placed = sum(self.placements[source.name].nbytes for source in self.written)
        return placed + sum(path.stat().st_size for path in self.files.values())


def shared_files(tensors: Iterable[Source], dtype: str, way: str, folder: Path) -> frozenset[Path]:
    """Return the checkpoint's files that can be shared in `folder`, in the way that `--weights` asks for.

    Sharing is tried with each file. ``auto`` does not share a file of which less than half is used, because the unused
    rest would be copied to every device with the bundle.

    Raises:
        ExportError: hard links are asked for and cannot be made in `folder`.
    """
    if way == "copy":
        return frozenset()
    trial = folder / ".trial"
    used: dict[Path, int] = {}
    for tensor in tensors:
        if readable_in_place(tensor, dtype):
            used[tensor.file] = used.get(tensor.file, 0) + tensor.nbytes
    if way == "link":
        for file in used:
            _hard_link(file, trial)
        shared = frozenset(used)
    else:
        large = [file for file, count in used.items() if 2 * count >= file.stat().st_size]
        shared = frozenset(file for file in large if share_blocks(file, trial))
    trial.unlink(missing_ok=True)
    return shared


def plan_weights(sources: Sequence[Source], dtype: str, shared: Collection[Path]) -> WeightPlan:
    """Return the plan of a store: each tensor is read from one of the `shared` files or written. Reads no values."""
    in_place = tuple(s for s in sources if readable_in_place(s, dtype) and s.file in shared)
    names = {tensor.name for tensor in in_place}
    written = tuple(s for s in sources if s.name not in names)
    beside = _names_beside(in_place)
    placements = {
        t.name: Placement(location=beside[t.file], offset=t.offset, nbytes=t.nbytes, shape=t.shape, dtype=dtype)
        for t in in_place
    }
    placements |= _store_layout(written, dtype)
    return WeightPlan(
        dtype=dtype,
        placements=placements,
        files={name: path for path, name in beside.items()},
        shared=in_place,
        written=written,
    )


def attach_weights(model: ir.Model, plan: WeightPlan) -> None:
    """Make every weight of `model` refer to its bytes in the store."""
    for name, value in model.graph.initializers.items():
        if (place := plan.placements.get(name)) is not None:
            value.const_value = ir.ExternalTensor(
                place.location,
                place.offset,
                place.nbytes,
                ir.DataType(TENSOR_TYPES[place.dtype].onnx),
                shape=ir.Shape(place.shape),
                name=name,
            )


def attach_placeholders(model: ir.Model) -> None:
    """Give every initializer without a value a placeholder as external data."""
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None
            assert value.shape is not None
            value.const_value = ir.ExternalTensor("unplaced", 0, 0, value.dtype, shape=value.shape, name=name)


def placeholders(model: ir.Model) -> list[str]:
    """Return the names of the initializers that have a placeholder: the weights."""
    return [
        name for name, value in model.graph.initializers.items() if isinstance(value.const_value, ir.ExternalTensor)
    ]


def write_store(
    plan: WeightPlan, folder: Path, scan: SourceScan, progress: Progress, *, link: bool = False
) -> dict[str, FileInfo]:
    """Write or share every file of the store in `folder`, and return size and digest of each.

    `link` makes hard links of the shared files; otherwise they are copies that share blocks.

    Raises:
        CheckpointError: tensors have NaN or infinite values, all of them named.
        ExportError: a file cannot be linked, or the disk has too little space.
    """
    bad: dict[str, int] = {}
    files: dict[str, FileInfo] = {}
    _require_room(sum(plan.placements[source.name].nbytes for source in plan.written), folder)
    for name, source in plan.files.items():
        if link:
            _hard_link(source, folder / name)
        else:
            copy_file(source, folder / name)
        scanned = scan.result(source)
        bad |= scanned.bad
        files[name] = FileInfo(bytes=scanned.bytes, sha256=scanned.sha256)
        progress(scanned.bytes)
    if plan.written:
        files[STORE_NAME] = _write_file(plan, folder / STORE_NAME, bad, progress)
    if bad:
        raise CheckpointError(_non_finite_message(bad, plan.dtype))
    return files


def _type(source: Source, dtype: str) -> TensorType:
    return TENSOR_TYPES[source.dtype if isinstance(source, QuantizedTensor) else dtype]


def _names_beside(tensors: Iterable[LazyTensor]) -> dict[Path, str]:
    """Return the name beside the graphs for each file; the prefix keeps it different from the store's."""
    files = sorted({tensor.file for tensor in tensors})
    return {file: f"checkpoint-{file.name}" for file in files}


def _store_layout(sources: Sequence[Source], dtype: str) -> dict[str, Placement]:
    types = [_type(source, dtype) for source in sources]
    sizes = [kind.nbytes(s.shape) for s, kind in zip(sources, types, strict=True)]
    header = _header(sources, sizes, dtype)
    offsets = np.cumsum([len(header), *sizes])
    return {
        s.name: Placement(location=STORE_NAME, offset=int(offset), nbytes=size, shape=s.shape, dtype=kind.name)
        for s, kind, size, offset in zip(sources, types, sizes, offsets, strict=False)
    }


def _header(sources: Sequence[Source], sizes: Sequence[int], dtype: str) -> bytes:
    """Return the safetensors header: its length in 8 bytes, then JSON padded with spaces to a multiple of 64."""
    ends = np.cumsum(sizes, dtype=np.int64)
    entries = {
        source.name: {
            "dtype": _type(source, dtype).safetensors,
            "shape": list(_type(source, dtype).stored_shape(source.shape)),
            "data_offsets": [int(end) - size, int(end)],
        }
        for source, size, end in zip(sources, sizes, ends, strict=True)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return struct.pack("<Q", len(text)) + text


def _hard_link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise ExportError(
            f"--weights link: {source} has no hard link in {target.parent} ({error.strerror}); "
            "take --weights auto, or an --output on the checkpoint's file system"
        ) from error


def _require_room(wanted: int, folder: Path) -> None:
    """Check before anything is written that `folder` has space for `wanted` bytes.

    Raises:
        ExportError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise ExportError(
            f"{folder}: the weights take {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "free space or choose another --output"
        )


def _write_file(plan: WeightPlan, path: Path, bad: dict[str, int], progress: Progress) -> FileInfo:
    sizes = [plan.placements[source.name].nbytes for source in plan.written]
    header = _header(plan.written, sizes, plan.dtype)
    digest = hashlib.sha256(header)
    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:
        file.write(header)
        for source in plan.written:
            for stored in stored_chunks(source):
                kind = TENSOR_TYPES[plan.placements[source.name].dtype]
                values = stored.to(TORCH_DTYPES[kind.torch or kind.stored])
                data = values.view(torch.uint8).numpy().data
                hashed = pool.submit(digest.update, data)
                if values.itemsize > 1 and (count := non_finite(values)):
                    bad[source.name] = bad.get(source.name, 0) + count
                for start in range(0, len(data), _WRITE_BYTES):
                    file.write(data[start : start + _WRITE_BYTES])
                hashed.result()
                progress(len(data))
    return FileInfo(bytes=path.stat().st_size, sha256=digest.hexdigest())


def _non_finite_message(bad: Mapping[str, int], dtype: str) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:8])
    more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
    return (
        f"weights as {dtype}: NaN or infinite values in {shown}{more}; "
        "repair the checkpoint, or try --dtype bf16 if they only overflow fp16"
    )
