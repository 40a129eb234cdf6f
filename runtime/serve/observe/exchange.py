"""One request and its outcome, as metrics, log and traces share them."""

import time
from dataclasses import dataclass, field

from internvl_edge.runtime.serve.observe.trace_context import TraceContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The facts of an answer of a chat model."""

    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    first_s: float
    """Seconds from the first byte of the request to the first piece of the answer."""
    tokens_per_s: float | None
    """Tokens a second after the first piece; None for an answer of one token."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """The facts of one request; they are filled in while it is answered."""

    protocol: str
    """Name of the protocol: `http` or `grpc`."""
    method: str
    """Method and path of HTTP, or name of the gRPC call."""
    client: str
    """Digest of the API key, or the address."""
    trace: TraceContext
    parent: str = ""
    """The `traceparent` that came with the request."""
    model: str = ""
    """Name of a served model, or an empty string: names that clients make up would fill the metrics."""
    id: str = ""
    """The client's own identifier of the request."""
    status: str = "200"
    """Status code of HTTP, or name of gRPC's."""
    refusal: str = ""
    """Name of the `RefusalError`'s class; empty for an answered request."""
    taken: bool = False
    """Whether the request was passed to the engine, which reports its own refusals to the observer."""
    rows: int = 0
    """Number of rows of the request; 1 if its model does not count rows."""
    began: float = field(default_factory=time.monotonic)
    """Time of the first byte, on the clock of `time.monotonic`."""
    seconds: float = 0.0
    """Seconds from the first byte to the end of the answer."""
    answered: Answered | None = None
    """Facts of the whole answer of a chat model; None for other requests, and for answers that were not finished."""
    held_s: float = 0.0
    """Seconds that it waited in admission control, before any work was done for it."""
