"""Tensors that stay on disk: each is a name, a type, a shape and a byte range of a file."""

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from internvl_edge.runtime.errors import CheckpointError
from internvl_edge.runtime.numbers.tensor_types import TENSOR_TYPES

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, row.torch) for name, row in TENSOR_TYPES.items() if row.torch
}
"""Name of each type that torch has -> the torch type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyTensor:
    """A tensor that stays on disk. It is read with `pread`, not mapped: mapped pages count as resident memory."""

    name: str
    dtype: str
    """A key of `TORCH_DTYPES`, or the file's own name for a type that torch does not have."""
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int
    strides: tuple[int, ...] | None = None
    """Strides in elements if the file does not hold the tensor in row-major order; None means row-major."""

    @property
    def parts(self) -> tuple["LazyTensor", ...]:
        """The tensors on disk that it is made of: itself."""
        return (self,)

    @property
    def files(self) -> frozenset[Path]:
        """Paths of the files that hold its values."""
        return frozenset([self.file])

    def chunks(self, limit_bytes: int) -> Iterator[torch.Tensor]:
        """Yield the values in row-major order as flat tensors of at most `limit_bytes`, but at least one value.

        All chunks share one buffer, so a chunk is valid until the next one. A tensor with strides is one chunk.
        """
        if self.strides is not None:
            yield self.torch().flatten()
            return
        dtype = TORCH_DTYPES[self.dtype]
        if self.nbytes == 0:
            return
        # Anonymous pages, freed with the last view: buffers of this size would fragment malloc's heap by gigabytes.
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

    def transposed(self) -> "LazyTensor":
        """Return this matrix transposed, as another view of the same bytes."""
        rows, columns = self.shape
        by_row, by_column = self.strides or (columns, 1)
        return replace(self, shape=(columns, rows), strides=(by_column, by_row))

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
    """A weight with a LoRA adapter, merged when it is read: ``base + scale * up @ down``."""

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
    def parts(self) -> tuple[LazyTensor, ...]:
        """The tensors on disk that it is made of."""
        return self.base, self.down, self.up

    @property
    def files(self) -> frozenset[Path]:
        """Paths of the files that hold its values."""
        return frozenset([self.base.file, self.down.file, self.up.file])

    @property
    def fits(self) -> bool:
        """Whether ``up @ down`` has the shape of the base weight."""
        if len(self.down.shape) != 2 or len(self.up.shape) != 2:
            return False
        return self.up.shape[1] == self.down.shape[0] and (self.up.shape[0], self.down.shape[1]) == self.shape

    def chunks(self, limit_bytes: int) -> Iterator[torch.Tensor]:
        """Yield the merged values as one flat tensor, since the product needs the whole weight."""
        yield self.torch().flatten()

    def torch(self) -> torch.Tensor:
        """Return the merged weight, computed in fp32 and cast to its own type."""
        delta = self.up.torch().float() @ self.down.torch().float()
        return (self.base.torch().float() + self.scale * delta).to(TORCH_DTYPES[self.dtype])


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedTensor:
    """A tensor whose rows are those of several stored tensors in order; nothing is read until it is used."""

    name: str
    rows: tuple[LazyTensor | MergedTensor, ...]
    """Tensors of one type and shape, as `with_joined_rows` checks."""

    @property
    def dtype(self) -> str:
        """Type of all parts."""
        return self.rows[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return (sum(part.shape[0] for part in self.rows), *self.rows[0].shape[1:])

    @property
    def parts(self) -> tuple[LazyTensor, ...]:
        """The tensors on disk that it is made of."""
        return tuple(stored for part in self.rows for stored in part.parts)

    @property
    def files(self) -> frozenset[Path]:
        """Paths of the files that hold its values."""
        return frozenset(stored.file for stored in self.parts)

    @property
    def fits(self) -> bool:
        """Whether every adapter among its rows has the shape of its base weight."""
        return all(part.fits for part in self.rows if isinstance(part, MergedTensor))

    def chunks(self, limit_bytes: int) -> Iterator[torch.Tensor]:
        """Yield the values in row-major order as flat tensors; each is valid until the next one."""
        for part in self.rows:
            yield from part.chunks(limit_bytes)

    def torch(self) -> torch.Tensor:
        """Return the whole tensor."""
        return torch.cat([part.torch() for part in self.rows])


StoredTensor = LazyTensor | MergedTensor | JoinedTensor
"""Whatever gives a checkpoint's tensor."""


def _read_into(descriptor: int, out: torch.Tensor, offset: int, path: Path) -> None:
    view = out.view(torch.uint8).numpy().data
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise CheckpointError(f"{path}: ends {len(view) - done} bytes early; download it again")
        done += count
