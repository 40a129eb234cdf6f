"""What a served model takes and gives, in the terms of the Open Inference Protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""The protocol's name of a type -> NumPy's. It has none for BF16: such a tensor is the 16 bits of each number."""
DECLARED: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
"""The name of a type in a manifest -> the protocol's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 where the size is free."""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One model."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, str]
    """Parameter of a request that it knows -> what it does, in words."""
    batched: bool
    """Axis 0 of every input and output counts rows that do not see each other: requests may be joined on it."""
    modes: tuple[str, ...] = ()
    """Whose picture features it gives: c, g; empty where it gives none."""
    streams: bool = False
    """Its answer may be had in parts."""
