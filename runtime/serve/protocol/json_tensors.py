"""Tensors as JSON lists, nested like their shape or flat."""

import base64
import binascii
from itertools import chain
from typing import Any

import numpy as np

from internvl_edge.runtime.bundle.declared_types import bfloat16_bits, bfloat16_from_bits, rounded_to_bfloat16
from internvl_edge.runtime.serve.protocol.binary_tensors import object_array
from internvl_edge.runtime.serve.protocol.checks import HALF_SURROGATE, out_of_range, quoted, require_count
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.signature import DATATYPES

_FLOATS = ("FP16", "BF16", "FP32", "FP64")


def array_from_list(name: str, datatype: str, shape: tuple[int, ...], data: Any, encoded: bool = False) -> np.ndarray:
    """Return the tensor `name` of the list `data`; with `encoded`, its strings are bytes in base64.

    Raises:
        BadRequestError: The values do not fit the datatype, or their number does not fit the shape.
    """
    flat = _flat(name, data, len(shape))
    require_count(name, shape, len(flat))
    kinds = set(map(type, flat))
    if datatype == "BYTES":
        if kinds - {str}:
            raise BadRequestError(f"input {quoted(name)}: BYTES in JSON are strings")
        return object_array([_bytes(name, text, encoded) for text in flat], shape)
    allowed = {bool} if datatype == "BOOL" else {int, float} if datatype in _FLOATS else {int}
    if kinds - allowed:
        wanted = "true or false" if datatype == "BOOL" else "numbers" if float in allowed else "whole numbers"
        raise BadRequestError(f"input {quoted(name)}: {datatype} in JSON are {wanted}")
    return _numbers(name, datatype, flat).reshape(shape)


def flattened(name: str, datatype: str, array: np.ndarray) -> list[str] | np.ndarray:
    """Return the elements of output `name` as a flat list; BYTES elements as text.

    Raises:
        BadRequestError: It holds bytes that are not UTF-8, or NaN or infinity.
        TypeError: The array's type is not that of `datatype`.
    """
    if array.dtype != DATATYPES[datatype]:
        raise TypeError(f"output {name} is {array.dtype} instead of {datatype}")
    if datatype == "BF16":
        array = bfloat16_from_bits(array)
    if array.dtype == np.object_:
        try:
            return [value.decode() for value in array.flat]
        except UnicodeDecodeError as error:
            raise BadRequestError(f"output {name}: holds bytes that are no text; ask for it as binary data") from error
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequestError(f"output {name}: holds NaN or infinity; ask for it as binary data")
    return np.ascontiguousarray(array).reshape(-1)


def _flat(name: str, data: Any, rank: int) -> list[Any]:
    if not isinstance(data, list):
        raise BadRequestError(f"input {quoted(name)}: data is a list")
    flat = data
    for _ in range(rank - 1):
        if set(map(type, flat)) == {list}:
            flat = list(chain.from_iterable(flat))
    return flat


def _bytes(name: str, text: str, encoded: bool) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if encoded else text.encode()
    except binascii.Error as error:
        raise BadRequestError(f"input {quoted(name)}: is not base64") from error
    except UnicodeEncodeError as error:
        raise BadRequestError(f"input {quoted(name)}: {HALF_SURROGATE}") from error


def _numbers(name: str, datatype: str, flat: list[Any]) -> np.ndarray:
    if datatype == "BF16":
        rounded = rounded_to_bfloat16(_numbers(name, "FP32", flat))
        if not np.isfinite(rounded).all():
            raise out_of_range(name, datatype)
        return bfloat16_bits(rounded)
    dtype = DATATYPES[datatype]
    try:
        wide = np.array(flat, np.float64 if dtype.kind == "f" else np.bool_ if dtype.kind == "b" else np.int64)
    except OverflowError as error:
        raise out_of_range(name, datatype) from error
    with np.errstate(over="ignore"):
        values = wide.astype(dtype, copy=False)
    if not (np.isfinite(values).all() if dtype.kind == "f" else values is wide or np.array_equal(values, wide)):
        raise out_of_range(name, datatype)
    return values
