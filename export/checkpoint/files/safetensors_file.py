"""Read the header of a safetensors file: its tensors by name, without their values."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl_edge.export.checkpoint.files.pointers import refuse_pointer
from internvl_edge.export.checkpoint.files.tensors import TORCH_DTYPES, LazyTensor
from internvl_edge.runtime.errors import CheckpointError, first_line
from internvl_edge.runtime.numbers.tensor_types import TENSOR_TYPES

_NAMES = {row.safetensors: name for name, row in TENSOR_TYPES.items() if row.torch}
_LONGEST_HEADER = 100_000_000
"""Limit of the safetensors format, in bytes."""


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a safetensors file; only its header is read.

    A type that torch does not have keeps its name in the file, since the tensor may be one that no graph needs.

    Raises:
        CheckpointError: the file is truncated or corrupt.
    """
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        tensors = _tensors(header, path, 8 + length, size)
    except (
        OSError,
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
        RecursionError,
        struct.error,
    ) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({first_line(error)}); download it again"
        ) from error
    return tensors


def _tensors(header: Mapping[str, Any], path: Path, start: int, size: int) -> dict[str, LazyTensor]:
    """Return the tensors that a header lists, after checking that their byte ranges fill the file.

    Raises:
        ValueError: an entry is not valid, or the ranges overlap, leave gaps or end elsewhere than the file.
    """
    tensors = {name: _tensor(name, entry, path, start) for name, entry in header.items() if name != "__metadata__"}
    end = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != end:
            raise ValueError(f"{tensor.name} does not begin where the tensor before it ends")
        end += tensor.nbytes
    if end != size:
        raise ValueError(f"{end} bytes are listed, the file has {size}")
    return tensors


def _tensor(name: str, entry: Mapping[str, Any], path: Path, start: int) -> LazyTensor:
    first, last = map(int, entry["data_offsets"])
    shape = tuple(map(int, entry["shape"]))
    dtype = _NAMES.get(entry["dtype"], str(entry["dtype"]))
    expected = math.prod(shape) * TORCH_DTYPES[dtype].itemsize if dtype in TORCH_DTYPES else last - first
    if first < 0 or min(shape, default=0) < 0 or last - first != expected:
        raise ValueError(f"{name} has {last - first} bytes instead of {expected}")
    return LazyTensor(name=name, dtype=dtype, shape=shape, file=path, offset=start + first, nbytes=last - first)
