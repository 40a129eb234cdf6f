"""A request and its answer, whatever the protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Parameter = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks of one model."""

    model: str
    inputs: Mapping[str, np.ndarray]
    """By name. Strings and encoded pictures (BYTES) are object arrays of `bytes`."""
    outputs: tuple[str, ...] | None = None
    """None: all."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    id: str = ""
    client: str = ""
    """Whose turns are counted: the API key's digest, or the address."""
    deadline: float | None = None
    """On the clock of `time.monotonic`, in seconds; None: it waits as long as it takes."""
    trace: str = ""
    """A W3C `traceparent`, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer, or a part of it where it streams."""

    outputs: Mapping[str, np.ndarray]
    """By name, in the order of the model's signature; BYTES as in requests."""
    final: bool = True
    """No part follows."""
