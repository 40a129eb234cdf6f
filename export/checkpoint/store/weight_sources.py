"""Sources of a weight's values: bytes of a file, or a computation on them that runs when the weight is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from internvl_edge.calib.formats import broadcast_scale, encode
from internvl_edge.export.checkpoint.files.tensors import JoinedTensor, LazyTensor, MergedTensor
from internvl_edge.export.checkpoint.store.source_scan import CHUNK_BYTES
from internvl_edge.runtime.numbers.formats import Format
from internvl_edge.runtime.numbers.packing import packed


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedTensor:
    """A small computed tensor that no file holds, such as a rotary table or an interpolated position table."""

    name: str
    value: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.value.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedTensor:
    """A tensor whose values are adjusted when it is read, for example by a folded factor; shape and type stay."""

    name: str
    base: "Source"
    adjust: Callable[[torch.Tensor], torch.Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.base.shape

    def torch(self) -> torch.Tensor:
        """Return the adjusted values in fp32."""
        return self.adjust(whole(self.base))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedTensor:
    """A weight ``[out, C]`` as codes, with a scale for each row or block; zero rows pad it to the rows of `scale`."""

    name: str
    base: "Source"
    adjust: Callable[[torch.Tensor], torch.Tensor]
    scale: torch.Tensor
    form: Format

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor, padding included."""
        return (len(self.scale), *self.base.shape[1:])

    @property
    def dtype(self) -> str:
        """Type of the codes."""
        return self.form.type.name

    def dequantized(self) -> torch.Tensor:
        """Return the values of the codes in fp32, without padding."""
        return (self.torch().float() * self._wide_scale())[: self.base.shape[0]]

    def torch(self) -> torch.Tensor:
        """Return the codes, one element for each, also where several fit into a byte."""
        values = self.adjust(whole(self.base))
        values = torch.nn.functional.pad(values, (0, 0, 0, len(self.scale) - len(values)))
        return encode(values, self._wide_scale(), self.form)

    def packed(self) -> Tensor:
        """Return the codes as files store them: several in a byte if they have fewer than 8 bits."""
        codes = self.torch()
        return codes if self.form.type.per_byte == 1 else torch.from_numpy(packed(codes.numpy(), self.form.type))

    def _wide_scale(self) -> Tensor:
        return broadcast_scale(self.scale, self.form.granularity, len(self.shape))


Source = LazyTensor | MergedTensor | JoinedTensor | ComputedTensor | AdjustedTensor | QuantizedTensor


def stored_chunks(source: Source) -> Iterator[torch.Tensor]:
    """Yield the values of `source` in its stored type as flat tensors; each is valid until the next."""
    if isinstance(source, LazyTensor | MergedTensor | JoinedTensor):
        yield from source.chunks(CHUNK_BYTES)
    elif isinstance(source, QuantizedTensor):
        yield source.packed().flatten()
    else:
        yield (source.value if isinstance(source, ComputedTensor) else source.torch()).flatten()


def whole(source: Source) -> torch.Tensor:
    """Return all values of `source` in fp32; codes are dequantized."""
    if isinstance(source, ComputedTensor):
        return source.value.float()
    return source.dequantized() if isinstance(source, QuantizedTensor) else source.torch().float()


def readable_in_place(source: Source, dtype: str) -> TypeGuard[LazyTensor]:
    """Return whether a graph of `dtype` can read `source` from the checkpoint's file without conversion."""
    return isinstance(source, LazyTensor) and source.strides is None and source.dtype == dtype
