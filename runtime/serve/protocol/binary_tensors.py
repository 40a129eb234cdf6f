"""Tensors in the protocol's binary form: little-endian numbers, and BYTES elements with their length before them."""

import struct
from collections.abc import Iterator
from math import prod

import numpy as np

from internvl_edge.runtime.serve.protocol.checks import quoted, require_count
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.signature import DATATYPES

_LENGTH = struct.Struct("<I")


def array_from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: "bytes | memoryview") -> np.ndarray:
    """Return the tensor `name` of the bytes `raw`; numbers are not copied.

    Raises:
        BadRequestError: The bytes do not fit the datatype and shape.
    """
    if datatype == "BYTES":
        return _strings(name, shape, raw)
    dtype = DATATYPES[datatype]
    if len(raw) != (expected := prod(shape) * dtype.itemsize):
        raise BadRequestError(f"input {quoted(name)}: {datatype} {list(shape)} takes {expected} bytes, got {len(raw)}")
    values = np.frombuffer(raw, dtype.newbyteorder("<"))
    if datatype == "BOOL" and (np.frombuffer(raw, np.uint8) > 1).any():
        raise BadRequestError(f"input {quoted(name)}: a BOOL is a byte of 0 or 1")
    return values.reshape(shape)


def raw_from_array(array: np.ndarray, datatype: str) -> bytes:
    """Return the bytes of an output.

    Raises:
        TypeError: The array's type is not that of `datatype`, so clients would misread it.
    """
    if array.dtype != DATATYPES[datatype]:
        raise TypeError(f"an output is {array.dtype} instead of {datatype}")
    if array.dtype == np.object_:
        return b"".join(part for value in array.flat for part in (_LENGTH.pack(len(value)), value))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def object_array(values: "list[bytes]", shape: tuple[int, ...]) -> np.ndarray:
    """Return BYTES elements as the object array that the engine takes."""
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array.reshape(shape)


def _strings(name: str, shape: tuple[int, ...], raw: "bytes | memoryview") -> np.ndarray:
    count = prod(shape)
    if count * _LENGTH.size > len(raw):
        raise BadRequestError(f"input {quoted(name)}: {count} elements take more than {len(raw)} bytes")
    values = list(_elements(name, raw))
    require_count(name, shape, len(values))
    return object_array(values, shape)


def _elements(name: str, raw: "bytes | memoryview") -> Iterator[bytes]:
    offset = 0
    while offset < len(raw):
        start = offset + _LENGTH.size
        if start > len(raw) or (end := start + _LENGTH.unpack_from(raw, offset)[0]) > len(raw):
            raise BadRequestError(f"input {quoted(name)}: the last element is cut off")
        yield bytes(raw[start:end])
        offset = end
