"""OpenTelemetry spans of requests and their stages; needs OpenTelemetry's SDK."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.observe.trace_context import TraceContext, parsed_header

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_INSTRUMENTATION = "internvl_edge.serve"


class TracingRecord(Record):
    """A record that also writes a span for each request, with a child span for each stage."""

    def __init__(self, provider: "TracerProvider") -> None:
        super().__init__()
        self._provider = provider
        self._tracer = provider.get_tracer(_INSTRUMENTATION)
        self._spans: dict[str, Span] = {}

    def began(self, exchange: Exchange) -> None:
        """Start the request's span, whose ids become those of the exchange."""
        from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

        super().began(exchange)
        span = self._tracer.start_span(exchange.method, _context(exchange.parent), kind=SpanKind.SERVER)
        ids = span.get_span_context()
        exchange.trace = TraceContext(
            format_trace_id(ids.trace_id), format_span_id(ids.span_id), f"{int(ids.trace_flags):02x}"
        )
        self._spans[exchange.trace.span_id] = span

    def ended(self, exchange: Exchange) -> None:
        """End the request's span."""
        from opentelemetry.trace import StatusCode

        super().ended(exchange)
        span = self._spans.pop(exchange.trace.span_id)
        span.set_attributes(
            {"model": exchange.model, "client": exchange.client, "request.id": exchange.id, "status": exchange.status}
        )
        if exchange.refusal:
            span.set_status(StatusCode.ERROR, exchange.refusal)
        span.end()

    def stage(self, model: str, stage: str, seconds: float, traces: Sequence[str] = ()) -> None:
        """Write a span of the stage under each request in it."""
        super().stage(model, stage, seconds, traces)
        now = time.time_ns()
        for trace in traces:
            span = self._tracer.start_span(
                stage, _context(trace), attributes={"model": model}, start_time=now - int(seconds * 1e9)
            )
            span.end(now)

    def close(self) -> None:
        """Send the spans that were not sent yet."""
        self._provider.shutdown()


def _context(traceparent: str) -> "Context":
    """Return the context for a child span of `traceparent`, or for a root span if that is absent."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if (parent := parsed_header(traceparent)) is None:
        return Context()
    ids = SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=TraceFlags(int(parent.flags, 16))
    )
    return set_span_in_context(NonRecordingSpan(ids), Context())
