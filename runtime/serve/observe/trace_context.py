"""W3C trace context: the ids that a request carries through every stage and service."""

import random
import re
from dataclasses import dataclass

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in a trace a request stands."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits: the server's work on this request."""
    flags: str = "01"

    @property
    def header(self) -> str:
        """Return the `traceparent` of what is done for this request."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def continued(traceparent: str | None) -> TraceContext:
    """Return a context in the trace that `traceparent` names, or in a new one where it names none."""
    span_id = _digits(16)
    if (parsed := parsed_header(traceparent)) is None:
        return TraceContext(_digits(32), span_id)
    return TraceContext(parsed.trace_id, span_id, parsed.flags)


def parsed_header(traceparent: str | None) -> TraceContext | None:
    """Return what the header says, or None where it is absent or not well formed."""
    found = _HEADER.fullmatch(traceparent or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, flags)


def _digits(count: int) -> str:
    """Return random digits, not all of them 0; an id is no secret, and the system's own randomness costs a call."""
    return f"{random.getrandbits(4 * count) or 1:0{count}x}"
