"""Convert arrays to the element types that the manifest declares for the inputs and outputs of a graph."""

from collections.abc import Iterable, Mapping

import numpy as np

from internvl_edge.runtime.bundle.manifest import TensorSpec

BFLOAT16 = "bfloat16"
"""Name of a type that NumPy lacks. Its values are held as fp32 numbers whose lower 16 bits are 0."""
_LOWER_BITS = np.uint32(0xFFFF)
_QUIET_NAN = np.uint32(0x7FC00000)


def as_declared(values: np.ndarray, declared: str) -> np.ndarray:
    """Return floats in the declared type, rounded to the nearest; values beyond its range become infinite.

    Other arrays are returned unchanged; the session checks whether its graph takes them.
    """
    if values.dtype.kind != "f":
        return values
    if declared == BFLOAT16:
        return rounded_to_bfloat16(values)
    dtype = np.dtype(declared)
    if dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


def arrays_as_declared(arrays: Mapping[str, np.ndarray], specs: Iterable[TensorSpec]) -> dict[str, np.ndarray]:
    """Return named arrays in the types of their specifications; those without one stay as they are."""
    types = {spec.name: spec.dtype for spec in specs}
    return {name: as_declared(v, types[name]) if name in types else v for name, v in arrays.items()}


def rounded_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return fp32 numbers rounded to the nearest bfloat16 value, ties to even."""
    with np.errstate(over="ignore"):
        exact = np.ascontiguousarray(values, np.float32)
    bits = exact.view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + even) & ~_LOWER_BITS
    return np.where(np.isnan(exact), _QUIET_NAN, rounded).astype(np.uint32).view(np.float32)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Return the 16-bit encoding of each number in bfloat16, as uint16."""
    return (rounded_to_bfloat16(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def bfloat16_from_bits(bits: np.ndarray) -> np.ndarray:
    """Return the fp32 numbers that 16-bit encodings of bfloat16 stand for."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def arrays_with_bits(arrays: Mapping[str, np.ndarray], specs: Iterable[TensorSpec]) -> dict[str, np.ndarray]:
    """Return named arrays in which values declared as bfloat16 are uint16 encodings, as other programs hold them."""
    names = {spec.name for spec in specs if spec.dtype == BFLOAT16}
    return {name: bfloat16_bits(values) if name in names else values for name, values in arrays.items()}


def arrays_from_bits(arrays: Mapping[str, np.ndarray], specs: Iterable[TensorSpec]) -> dict[str, np.ndarray]:
    """Return named arrays in which uint16 encodings of values declared as bfloat16 are fp32 numbers."""
    names = {spec.name for spec in specs if spec.dtype == BFLOAT16}
    return {name: bfloat16_from_bits(values) if name in names else values for name, values in arrays.items()}
