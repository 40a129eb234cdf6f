"""One request and what became of it, in the words that metrics, log and traces share."""

import time
from dataclasses import dataclass, field

from internvl_edge.runtime.serve.observe.trace_context import TraceContext


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Filled in while a request is answered."""

    protocol: str
    """`http` or `grpc`."""
    method: str
    """HTTP's method and path, or the name of the call."""
    client: str
    """The API key's digest, or the address."""
    trace: TraceContext
    parent: str = ""
    """The `traceparent` that came with the request."""
    model: str = ""
    """A model that is served, or empty: names that clients make up would fill the metrics."""
    id: str = ""
    """The client's own name of the request."""
    status: str = "200"
    """HTTP's code, or the name of gRPC's."""
    refusal: str = ""
    """Name of the `RefusalError`'s class."""
    taken: bool = False
    """The engine has it, and tells the observer itself why it refuses."""
    rows: int = 0
    """Rows of the request, where its model counts rows; else it is one."""
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    held_s: float = 0.0
    """Since it began, before anything was done for it: at the door."""
