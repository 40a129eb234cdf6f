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

from internvl_edge.calib.formats import Format
from internvl_edge.export.accounting import non_finite
from internvl_edge.export.sweep import CHUNK_BYTES, Sweep
from internvl_edge.export.tensor_files import TORCH_DTYPES, LazyTensor, MergedTensor
from internvl_edge.runtime.errors import CheckpointError
from internvl_edge.runtime.manifest import FileInfo

logger = logging.getLogger(__name__)

STORE_NAME = "weights.safetensors"
_SAFETENSORS_DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
}
_IR_DTYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int8": ir.DataType.INT8,
    "float8_e4m3fn": ir.DataType.FLOAT8E4M3FN,
}

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedTensor:
    """A tensor that something folds into: its values are changed, its type and shape are not."""

    name: str
    base: "Source"
    adjust: Callable[[torch.Tensor], torch.Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of the tensor."""
        return self.base.shape

    def torch(self) -> torch.Tensor:
        """Return the changed values in fp32."""
        return self.adjust(whole(self.base))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedTensor:
    """A weight ``[out, C]`` as 8-bit codes with one scale a row; rows of zeros pad it to the length of `scale`."""

    name: str
    base: "Source"
    adjust: Callable[[torch.Tensor], torch.Tensor]
    scale: torch.Tensor
    form: Format

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of the tensor, padding included."""
        return (len(self.scale), *self.base.shape[1:])

    @property
    def dtype(self) -> str:
        """Type of the codes."""
        return {"int8": "int8", "fp8": "float8_e4m3fn"}[self.form.name]

    def dequantized(self) -> torch.Tensor:
        """Return what the codes stand for in fp32, without padding."""
        return (self.torch().float() * self.scale[:, None])[: self.base.shape[0]]

    def torch(self) -> torch.Tensor:
        """Return the codes."""
        values = self.adjust(whole(self.base))
        values = torch.nn.functional.pad(values, (0, 0, 0, len(self.scale) - len(values)))
        return self.form.codes(values, self.scale[:, None])


Source = LazyTensor | MergedTensor | ComputedTensor | AdjustedTensor | QuantizedTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one initializer lies: a file beside the graphs, and the bytes in it."""

    location: str
    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str


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
        t.name: Placement(location=links[t.file], offset=t.offset, nbytes=t.nbytes, shape=t.shape, dtype=dtype)
        for t in linked
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
                _IR_DTYPES[place.dtype],
                shape=ir.Shape(place.shape),
                name=name,
            )


def attach_placeholders(model: ir.Model) -> None:
    """Give every initializer without a value a place that is not yet known."""
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None
            assert value.shape is not None
            value.const_value = ir.ExternalTensor("unplaced", 0, 0, value.dtype, shape=value.shape, name=name)


def placeholders(model: ir.Model) -> list[str]:
    """Return the names of the initializers whose place is not yet known: the weights."""
    return [
        name for name, value in model.graph.initializers.items() if isinstance(value.const_value, ir.ExternalTensor)
    ]


def write_store(plan: WeightPlan, folder: Path, sweep: Sweep, progress: Progress) -> dict[str, FileInfo]:
    """Put every file of the store into `folder`, checked for NaN and infinity; return size and digest of each.

    Raises:
        CheckpointError: tensors hold non-finite values, all of them named.
    """
    bad: dict[str, int] = {}
    files: dict[str, FileInfo] = {}
    for name, source in plan.links.items():
        link_or_copy(source, folder / name)
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
    if isinstance(source, LazyTensor | MergedTensor):
        yield from source.chunks(CHUNK_BYTES)
    else:
        yield (source.value if isinstance(source, ComputedTensor) else source.torch()).flatten()


def whole(source: Source) -> torch.Tensor:
    """Return the values that a graph computes with, in fp32."""
    if isinstance(source, ComputedTensor):
        return source.value.float()
    return source.dequantized() if isinstance(source, QuantizedTensor) else source.torch().float()


def linkable(source: Source, dtype: str) -> TypeGuard[LazyTensor]:
    """Return whether a graph of `dtype` can read the bytes of `source` where they lie."""
    return isinstance(source, LazyTensor) and source.strides is None and source.dtype == dtype


def _stored_dtype(source: Source, dtype: str) -> str:
    return source.dtype if isinstance(source, QuantizedTensor) else dtype


def _link_names(tensors: Iterable[LazyTensor]) -> dict[Path, str]:
    """Return a name beside the graphs for each file: its own, apart from the store's."""
    files = sorted({tensor.file for tensor in tensors})
    return {file: f"checkpoint-{file.name}" for file in files}


def _store_layout(sources: Sequence[Source], dtype: str) -> dict[str, Placement]:
    types = [_stored_dtype(source, dtype) for source in sources]
    sizes = [
        int(np.prod(s.shape, dtype=np.int64)) * TORCH_DTYPES[t].itemsize for s, t in zip(sources, types, strict=True)
    ]
    header = _header(sources, sizes, dtype)
    offsets = np.cumsum([len(header), *sizes])
    return {
        source.name: Placement(location=STORE_NAME, offset=int(offset), nbytes=size, shape=source.shape, dtype=stored)
        for source, stored, size, offset in zip(sources, types, sizes, offsets, strict=False)
    }


def _header(sources: Sequence[Source], sizes: Sequence[int], dtype: str) -> bytes:
    """Return the safetensors header: its length in 8 bytes, then JSON padded with spaces to a multiple of 64."""
    ends = np.cumsum(sizes, dtype=np.int64)
    entries = {
        source.name: {
            "dtype": _SAFETENSORS_DTYPES[_stored_dtype(source, dtype)],
            "shape": list(source.shape),
            "data_offsets": [int(end) - size, int(end)],
        }
        for source, size, end in zip(sources, sizes, ends, strict=True)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return struct.pack("<Q", len(text)) + text


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no links."""
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
                values = stored.to(TORCH_DTYPES[plan.placements[source.name].dtype])
                data = values.view(torch.uint8).numpy().data
                hashed = pool.submit(digest.update, data)
                if values.itemsize > 1 and (count := non_finite(values)):
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
