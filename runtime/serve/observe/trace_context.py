"""W3C trace context: the ids that a request carries through all stages and services."""

import random
import re
from dataclasses import dataclass

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The trace and the span of a request."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits of the server's span for this request."""
    flags: str = "01"

    @property
    def header(self) -> str:
        """Return the `traceparent` of child spans of this request."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def continued(traceparent: str | None) -> TraceContext:
    """Return a context in the trace of `traceparent`, or in a new trace if that is absent or malformed."""
    span_id = _digits(16)
    if (parsed := parsed_header(traceparent)) is None:
        return TraceContext(_digits(32), span_id)
    return TraceContext(parsed.trace_id, span_id, parsed.flags)


def parsed_header(traceparent: str | None) -> TraceContext | None:
    """Return the context of a `traceparent` header, or None if it is absent or malformed."""
    found = _HEADER.fullmatch(traceparent or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, flags)


def _digits(count: int) -> str:
    """Return random hexadecimal digits, not all 0; an id is no secret, so no system call for randomness is spent."""
    return f"{random.getrandbits(4 * count) or 1:0{count}x}"
