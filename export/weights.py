"""Where the values of a weight come from: a file, or a computation on what files hold; nothing is held in between."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

import torch

from internvl_edge.calib.formats import Format
from internvl_edge.export.checkpoint.files.tensors import LazyTensor, MergedTensor
from internvl_edge.export.sweep import CHUNK_BYTES


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


def readable_in_place(source: Source, dtype: str) -> TypeGuard[LazyTensor]:
    """Return whether a graph of `dtype` can read the bytes of `source` where they lie."""
    return isinstance(source, LazyTensor) and source.strides is None and source.dtype == dtype
