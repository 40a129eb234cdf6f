"""The weight store: where every initializer of a bundle lies, and the one streamed pass that puts it there.

All graphs of a bundle refer to the same bytes. A tensor that the checkpoint's own file holds in the wanted type is
linked (a hard link to that file beside the graphs, read in place by offset); everything else is written once to
``weights.safetensors``: converted, merged, interpolated or computed tensors, or all of them with ``--weights copy``.
"""

import hashlib
import json
import logging
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import onnx_ir as ir
import torch

from internvl_edge.export.accounting import non_finite
from internvl_edge.export.sweep import CHUNK_BYTES, Sweep
from internvl_edge.export.tensor_files import TORCH_DTYPES, LazyTensor, MergedTensor
from internvl_edge.runtime.errors import CheckpointError
from internvl_edge.runtime.manifest import FileInfo

logger = logging.getLogger(__name__)

STORE_NAME = "weights.safetensors"
_SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_IR_DTYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}

Progress = Callable[[int], None]
"""Called with the number of bytes that have just been dealt with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedTensor:
    """A small tensor that no file holds: a rotary table, an interpolated position table."""

    name: str
    value: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of the tensor."""
        return tuple(self.value.shape)


Source = LazyTensor | MergedTensor | ComputedTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one initializer lies: a file beside the graphs, and the bytes in it."""

    location: str
    offset: int
    nbytes: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlan:
    """The store before it is written."""

    dtype: str
    placements: Mapping[str, Placement]
    links: Mapping[str, Path]
    """File name beside the graphs -> the checkpoint's file."""
    linked: tuple[LazyTensor, ...]
    written: tuple[Source, ...]
    """In the order of their offsets in `STORE_NAME`."""

    @property
    def bytes_to_read(self) -> int:
        """Bytes that `write_store` deals with, for a progress bar."""
        placed = sum(self.placements[source.name].nbytes for source in self.written)
        return placed + sum(path.stat().st_size for path in self.links.values())


def plan_weights(sources: Sequence[Source], dtype: str, *, link: bool) -> WeightPlan:
    """Decide for every tensor whether it is linked or written; reads nothing."""
    linked = tuple(s for s in sources if link and linkable(s, dtype))
    names = {tensor.name for tensor in linked}
    written = tuple(s for s in sources if s.name not in names)
    links = _link_names(linked)
    placements = {
        t.name: Placement(location=links[t.file], offset=t.offset, nbytes=t.nbytes, shape=t.shape) for t in linked
    }
    placements |= _store_layout(written, dtype)
    return WeightPlan(
        dtype=dtype,
        placements=placements,
        links={name: path for path, name in links.items()},
        linked=linked,
        written=written,
    )


def attach_weights(model: ir.Model, plan: WeightPlan) -> None:
    """Point every initializer of `model` that is a weight at its bytes in the store."""
    for name, value in model.graph.initializers.items():
        if (place := plan.placements.get(name)) is not None:
            value.const_value = ir.ExternalTensor(
                place.location,
                place.offset,
                place.nbytes,
                _IR_DTYPES[plan.dtype],
                shape=ir.Shape(place.shape),
                name=name,
            )


def attach_placeholders(model: ir.Model) -> list[str]:
    """Give every initializer without a value a place that is not yet known; return their names, the weights."""
    names = []
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None
            assert value.shape is not None
            value.const_value = ir.ExternalTensor("unplaced", 0, 0, value.dtype, shape=value.shape, name=name)
            names.append(name)
    return names


def write_store(plan: WeightPlan, folder: Path, sweep: Sweep, progress: Progress) -> dict[str, FileInfo]:
    """Put every file of the store into `folder`, checked for NaN and infinity; return size and digest of each.

    Raises:
        CheckpointError: tensors hold non-finite values, all of them named.
    """
    bad: dict[str, int] = {}
    files: dict[str, FileInfo] = {}
    for name, source in plan.links.items():
        _link_or_copy(source, folder / name)
        swept = sweep.result(source)
        bad |= swept.bad
        files[name] = FileInfo(bytes=swept.bytes, sha256=swept.sha256)
        progress(swept.bytes)
    if plan.written:
        files[STORE_NAME] = _write_file(plan, folder / STORE_NAME, bad, progress)
    if bad:
        raise CheckpointError(_non_finite_message(bad, plan.dtype))
    return files


def stored_chunks(source: Source) -> Iterator[torch.Tensor]:
    """Yield the values of `source` in its own type as flat tensors; each is valid until the next is asked for."""
    if isinstance(source, ComputedTensor):
        yield source.value.flatten()
        return
    yield from source.chunks(CHUNK_BYTES)


def linkable(source: Source, dtype: str) -> TypeGuard[LazyTensor]:
    """Return whether a graph of `dtype` can read the bytes of `source` where they lie."""
    return isinstance(source, LazyTensor) and source.strides is None and source.dtype == dtype


def _link_names(tensors: Iterable[LazyTensor]) -> dict[Path, str]:
    """Return a name beside the graphs for each file: its own, apart from the store's."""
    files = sorted({tensor.file for tensor in tensors})
    return {file: f"checkpoint-{file.name}" for file in files}


def _store_layout(sources: Sequence[Source], dtype: str) -> dict[str, Placement]:
    itemsize = TORCH_DTYPES[dtype].itemsize
    sizes = [int(np.prod(source.shape, dtype=np.int64)) * itemsize for source in sources]
    header = _header(sources, sizes, dtype)
    offsets = np.cumsum([len(header), *sizes])
    return {
        source.name: Placement(location=STORE_NAME, offset=int(offset), nbytes=size, shape=source.shape)
        for source, size, offset in zip(sources, sizes, offsets, strict=False)
    }


def _header(sources: Sequence[Source], sizes: Sequence[int], dtype: str) -> bytes:
    """Return the safetensors header: its length in 8 bytes, then JSON padded with spaces to a multiple of 64."""
    ends = np.cumsum(sizes, dtype=np.int64)
    entries = {
        source.name: {
            "dtype": _SAFETENSORS_DTYPES[dtype],
            "shape": list(source.shape),
            "data_offsets": [int(end) - size, int(end)],
        }
        for source, size, end in zip(sources, sizes, ends, strict=True)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return struct.pack("<Q", len(text)) + text


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        logger.info("cannot link %s (%s): copied", source.name, error.strerror)
        shutil.copyfile(source, target)


def _write_file(plan: WeightPlan, path: Path, bad: dict[str, int], progress: Progress) -> FileInfo:
    sizes = [plan.placements[source.name].nbytes for source in plan.written]
    header = _header(plan.written, sizes, plan.dtype)
    digest = hashlib.sha256(header)
    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:
        file.write(header)
        for source in plan.written:
            for stored in stored_chunks(source):
                values = stored.to(TORCH_DTYPES[plan.dtype])
                data = values.view(torch.uint8).numpy().data
                hashed = pool.submit(digest.update, data)
                if count := non_finite(values):
                    bad[source.name] = bad.get(source.name, 0) + count
                file.write(data)
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
