"""What a served model takes and gives, in the terms of the Open Inference Protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_edge.runtime.numbers.tensor_types import TENSOR_TYPES

_TYPES = [row for row in TENSOR_TYPES.values() if row.protocol]
DATATYPES: Mapping[str, np.dtype[Any]] = {row.protocol: np.dtype(row.stored) for row in _TYPES} | {
    "BYTES": np.dtype(np.object_)
}
"""The protocol's name of a type -> NumPy's. It has none for BF16: such a tensor is the 16 bits of each number."""
DECLARED: Mapping[str, str] = {row.name: row.protocol for row in _TYPES}
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
