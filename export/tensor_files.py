"""Weights on disk without loading them: each tensor of a safetensors or torch file is a name, type and byte range."""

import json
import math
import mmap
import os
import pickle
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from internvl_edge.runtime.errors import CheckpointError

TORCH_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "bool": torch.bool,
}
_SAFETENSORS_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}
_NESTING_KEYS = ("module", "state_dict", "model")
"""Under which training scripts put the weights."""
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyTensor:
    """A tensor that stays on disk. Reading goes through `pread`, never a map: mapped pages count as resident memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int
    strides: tuple[int, ...] | None = None
    """In elements, where the file holds the tensor in another order than row-major; None is row-major."""

    def chunks(self, limit_bytes: int) -> Iterator[torch.Tensor]:
        """Yield the values in row-major order as flat tensors of at most `limit_bytes`, one value at least.

        A chunk is valid until the next one is asked for: they share one buffer. A tensor with strides comes whole.
        """
        if self.strides is not None:
            yield self.torch().flatten()
            return
        dtype = TORCH_DTYPES[self.dtype]
        if self.nbytes == 0:
            return
        # Pages of our own, returned when the last view goes: buffers of this size fragment malloc's heap by gigabytes.
        values = max(1, min(limit_bytes, self.nbytes) // dtype.itemsize)
        pages = mmap.mmap(-1, values * dtype.itemsize)
        buffer = torch.frombuffer(pages, dtype=dtype)
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            done = 0
            while done < self.nbytes:
                part = buffer[: (self.nbytes - done) // dtype.itemsize]
                _read_into(descriptor, part, self.offset + done, self.file)
                yield part
                done += part.numel() * dtype.itemsize
        finally:
            os.close(descriptor)

    def torch(self) -> torch.Tensor:
        """Return the whole tensor."""
        dtype = TORCH_DTYPES[self.dtype]
        elements = math.prod(self.shape)
        if self.strides is not None:
            elements = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        flat = torch.empty(elements, dtype=dtype)
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            _read_into(descriptor, flat, self.offset, self.file)
        finally:
            os.close(descriptor)
        if self.strides is None:
            return flat.reshape(self.shape)
        return flat.as_strided(self.shape, self.strides).contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedTensor:
    """A LoRA fine-tuned weight, merged when it is read: ``base + scale * up @ down``."""

    name: str
    base: LazyTensor
    down: LazyTensor
    up: LazyTensor
    scale: float

    @property
    def dtype(self) -> str:
        """Type of the base weight."""
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base weight."""
        return self.base.shape

    @property
    def file(self) -> Path:
        """File of the base weight."""
        return self.base.file

    @property
    def fits(self) -> bool:
        """Whether ``up @ down`` has the shape of the base weight."""
        if len(self.down.shape) != 2 or len(self.up.shape) != 2:
            return False
        return self.up.shape[1] == self.down.shape[0] and (self.up.shape[0], self.down.shape[1]) == self.shape

    def chunks(self, limit_bytes: int) -> Iterator[torch.Tensor]:
        """Yield the merged values as one flat tensor: the product needs the whole weight anyway."""
        yield self.torch().flatten()

    def torch(self) -> torch.Tensor:
        """Return the merged weight, added up in fp32."""
        delta = self.up.torch().float() @ self.down.torch().float()
        return (self.base.torch().float() + self.scale * delta).to(TORCH_DTYPES[self.dtype])


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a safetensors file; its header alone is read.

    Raises:
        CheckpointError: the file is truncated, corrupt or holds a type that no graph can take.
    """
    import safetensors

    _refuse_pointer(path)
    try:
        with safetensors.safe_open(path, framework="np"):  # checks the header against the file's size
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); download it again") from error
    header.pop("__metadata__", None)
    strange = sorted({entry["dtype"] for entry in header.values()} - set(_SAFETENSORS_NAMES))
    if strange:
        raise CheckpointError(f"{path}: tensors of type {', '.join(strange)}; give the unquantized checkpoint")
    return {name: _from_header(name, entry, path, 8 + length) for name, entry in header.items()}


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a ``.bin`` or ``.pth`` file; its pickle is read with `weights_only`, its data not at all.

    Raises:
        CheckpointError: the file is corrupt, holds code, or is in torch's format from before 1.6.
    """
    _refuse_pointer(path)
    try:
        with FakeTensorMode():  # storages then carry their offset in the file instead of data
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_pickle_message(path, str(error))) from error
    except Exception as error:  # a broken pickle raises whatever its bytes happen to spell
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path}: not a whole torch file ({reason}); download it again") from error
    tensors = _unnested(content)
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; give a state dict")
    sparse = [name for name, tensor in tensors.items() if tensor.layout != torch.strided]
    if sparse:
        raise CheckpointError(f"{path}: sparse tensors {', '.join(sparse)}; save them dense")
    if any(_storage_offset(tensor) is None for tensor in tensors.values()):
        raise CheckpointError(
            f"{path}: saved in torch's format from before 1.6, which cannot be mapped; load and save it anew"
        )
    return {name: _from_fake(name, tensor, path) for name, tensor in tensors.items()}


def _refuse_pointer(path: Path) -> None:
    """Tell apart what a clone without Git LFS leaves in place of the weights."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if start == _LFS_POINTER:
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the weights; run git lfs pull")


def _pickle_message(path: Path, reason: str) -> str:
    if (forbidden := re.search(r"GLOBAL (\S+)", reason)) is not None:
        return (
            f"{path}: the pickle holds code or objects that are no tensors ({forbidden[1]}); convert it to safetensors"
        )
    return f"{path}: the pickle holds objects that are no tensors, or is broken; convert it to safetensors"


def _read_into(descriptor: int, out: torch.Tensor, offset: int, path: Path) -> None:
    view = out.view(torch.uint8).numpy().data
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise CheckpointError(f"{path}: ends {len(view) - done} bytes early; download it again")
        done += count


def _from_header(name: str, entry: Mapping[str, Any], path: Path, start: int) -> LazyTensor:
    first, last = entry["data_offsets"]
    return LazyTensor(
        name=name,
        dtype=_SAFETENSORS_NAMES[entry["dtype"]],
        shape=tuple(entry["shape"]),
        file=path,
        offset=start + first,
        nbytes=last - first,
    )


def _unnested(content: Any) -> dict[str, torch.Tensor]:
    for key in _NESTING_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _storage_offset(tensor: torch.Tensor) -> int | None:
    offset: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return offset


def _from_fake(name: str, tensor: torch.Tensor, path: Path) -> LazyTensor:
    start = _storage_offset(tensor)
    assert start is not None
    return LazyTensor(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        file=path,
        offset=start + int(tensor.storage_offset()) * tensor.element_size(),
        nbytes=tensor.numel() * tensor.element_size(),
        strides=None if tensor.is_contiguous() else tuple(tensor.stride()),
    )
