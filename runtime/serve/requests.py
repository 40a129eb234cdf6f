"""A request and its response, the same for every protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Parameter = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A client's request of one model."""

    model: str
    inputs: Mapping[str, np.ndarray]
    """Input name -> values. Texts and encoded pictures (BYTES) are object arrays of `bytes`."""
    outputs: tuple[str, ...] | None = None
    """Names of the wanted outputs; None: all."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    id: str = ""
    """The client's own identifier of the request."""
    client: str = ""
    """Name under which the queue is shared fairly: the digest of the API key, or the address."""
    deadline: float | None = None
    """Time on the clock of `time.monotonic`, in seconds, after which the answer is not wanted; None: no limit."""
    trace: str = ""
    """The W3C `traceparent` of the request's span, or an empty string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer to a request, or one part of a streamed answer."""

    outputs: Mapping[str, np.ndarray]
    """Output name -> values, in the order of the model's signature; BYTES as in requests."""
    final: bool = True
    """Whether no further part follows."""
    first_at: float | None = None
    """Time on the clock of `time.monotonic` at which the first piece of a text came from a worker, if pieces come."""
