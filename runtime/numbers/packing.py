"""Pack codes of fewer than 8 bits into bytes as ONNX stores them, with the first value in the lowest bits."""

import numpy as np

from internvl_edge.runtime.numbers.tensor_types import TensorType


def packed(codes: np.ndarray, kind: TensorType) -> np.ndarray:
    """Return integer `codes` packed along the last axis, uint8.

    Raises:
        ValueError: the last axis does not fill whole bytes.
    """
    shape = kind.stored_shape(codes.shape)
    parts = codes.astype(np.uint8).reshape(*shape, kind.per_byte) & _mask(kind)
    shifts = np.arange(kind.per_byte, dtype=np.uint8) * kind.bits
    joined: np.ndarray = np.bitwise_or.reduce(parts << shifts, axis=-1).astype(np.uint8)
    return joined


def unpacked(stored: np.ndarray, kind: TensorType) -> np.ndarray:
    """Return the signed integer codes of packed bytes, int8."""
    shifts = np.arange(kind.per_byte, dtype=np.uint8) * kind.bits
    parts = ((stored[..., None] >> shifts) & _mask(kind)).astype(np.int8)
    signed = parts - (parts >> (kind.bits - 1) << kind.bits) if kind.bits < 8 else parts
    return signed.astype(np.int8).reshape(*stored.shape[:-1], -1)


def _mask(kind: TensorType) -> np.uint8:
    return np.uint8((1 << kind.bits) - 1)
