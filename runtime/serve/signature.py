"""The inputs and outputs of a served model, in the terms of the Open Inference Protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_edge.runtime.numbers.tensor_types import TENSOR_TYPES

_TYPES = [row for row in TENSOR_TYPES.values() if row.protocol]
DATATYPES: Mapping[str, np.dtype[Any]] = {row.protocol: np.dtype(row.stored) for row in _TYPES} | {
    "BYTES": np.dtype(np.object_)
}
"""Datatype of the protocol -> type of NumPy. NumPy has no BF16: such a tensor holds the 16 bits of each number."""
DECLARED: Mapping[str, str] = {row.name: row.protocol for row in _TYPES}
"""Name of a type in a manifest -> datatype of the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Name, datatype and shape of one input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """Size of each axis; -1 where it is free."""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLimits:
    """The limits of a model that writes an answer token by token, for one request at a time."""

    new_tokens: int
    """Most tokens of an answer."""
    context: int
    """Most tokens of prompt and answer together."""
    tile_tokens: int
    """Tokens of a tile; a picture has one tile or more. 0: the model takes no pictures."""
    tiles: int
    """Most tiles of a picture that a request may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Inputs, outputs and parameters of one model."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, str]
    """Parameter that requests may set -> description of its effect."""
    batched: bool
    """Whether axis 0 of every input and output counts independent rows, so that requests may be joined on it."""
    modes: tuple[str, ...] = ()
    """Kinds of picture features that the model gives: c, g; empty if it gives none."""
    streams: bool = False
    """Whether the answer may be streamed in parts."""
    answers: AnswerLimits | None = None
    """Limits of a model that writes answers; None for all others. An answer is computed alone and ends between two
    tokens when nobody waits for it."""
