"""Time limits of a connection, since uvicorn waits forever for heads, bodies and readers, and admission of requests.

The names of uvicorn's protocol class that are used here are public (no underscore), and a test lists all of them.
uvicorn documents none of them, so pyproject.toml limits its version to tested ones.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from internvl_edge.runtime.serve.protocol.http.admission import AdmissionControl, DeferredStart, RejectedError
from internvl_edge.runtime.serve.protocol.http.app import DEFERRED_START
from internvl_edge.runtime.serve.protocol.http.connection.coalescing import CoalescingTransport
from internvl_edge.runtime.serve.protocol.http.responses import json_bytes
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions

_HEAD_BYTES = 64 << 10


def timed_protocol(options: ProtocolOptions, admission: AdmissionControl) -> "type[asyncio.Protocol]":
    """Return uvicorn's HTTP protocol with the time limits of `options` and with `admission` before each request."""
    return type("TimedConnection", (TimedProtocol,), {"_options": options, "_admission": admission})


class TimedProtocol(HttpToolsProtocol):
    """An HTTP connection with time limits for receiving a head, receiving a body, and sending an answer."""

    _options: ProtocolOptions
    _admission: AdmissionControl
    _timer: asyncio.TimerHandle | None = None
    _phase = ""
    _head_bytes = 0
    _refused = False
    """Whether the request that is being read was refused by its head."""
    _closes_after_refusal = False
    """Whether the connection closes after the refused request."""
    _heads = 0
    """Number of requests that began in the last piece of data."""
    _refusals = 0
    """Number of requests that were refused in the last piece of data."""
    _reading_paused = False
    """Whether reading is paused because the client sends requests faster than it reads refusals."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first head."""
        self._coalescing = CoalescingTransport(transport, self.loop)
        super().connection_made(self._coalescing)
        self._enter_phase("head")

    def data_received(self, data: bytes) -> None:
        """Parse a piece of data, and pause reading if it led to more refusals than the client reads."""
        before, self._refusals, self._heads = self._phase, 0, 0
        super().data_received(data)
        if self._refusals > 1 or (self._refusals and self.flow.write_paused):
            self._reading_paused = True
            self.flow.pause_reading()  # other connections are served meanwhile
            self.loop.call_soon(self._resume_reading)
        self._update_phase()
        grows = before == self._phase == "head" and self._heads <= 1
        self._head_bytes = self._head_bytes + len(data) if grows else 0
        if self._head_bytes > _HEAD_BYTES:
            self.send_400_response(f"the head is larger than {_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Start the time limit of the next head."""
        self._heads, self._head_bytes = self._heads + 1, 0
        if self._phase != "write":
            self._enter_phase("")  # each head has its own limit, also after a refused request in the same piece
        if self.timeout_keep_alive_task is not None:  # set by the answer to a refused request in the same piece
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Admit the request by its head, or refuse it before its body is read."""
        self._refused = False
        if self.cycle is None or self.cycle.response_complete:  # otherwise a refusal would overtake an answer
            method, path = self.parser.get_method(), self.url.decode("ascii", "replace")
            try:
                admitted = self._admission.admit(method, path, self.client[0] if self.client else "", self.headers)
            except RejectedError as refusal:
                self._refuse(refusal.answer)
                return
            if admitted is not None:
                deferred = DeferredStart()
                self.scope["state"][DEFERRED_START] = deferred
                self._admission.begin(admitted, deferred.begin)
        super().on_headers_complete()

    def _refuse(self, answer: bytes) -> None:
        """Send the refusal at once; the body is read and dropped, unless the client expects `100 Continue` first."""
        self._refused = True
        self._refusals += 1
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._closes_after_refusal = self.expect_100_continue or not keeps
        closing = [(b"connection", b"close")] if self._closes_after_refusal else []
        headers = [*self.server_state.default_headers, *closing]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._coalescing.write_whole(b"HTTP/1.1 429 Too Many Requests\r\n" + lines + answer)
        if self.expect_100_continue:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Drop the body of a request that was refused."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a refused request here, and others in uvicorn."""
        if self._refused:
            self._refused = False
            self.on_response_complete()
            if self._closes_after_refusal:
                self.transport.close()
            return
        super().on_message_complete()
        self.cycle.more_body = False  # uvicorn leaves it True where the answer ended before the body

    def on_response_complete(self) -> None:
        """Start the time limit of what follows an answer."""
        super().on_response_complete()
        self._update_phase()

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read its answer."""
        super().pause_writing()
        self._enter_phase("write")

    def resume_writing(self) -> None:
        """End the time limit of a client that reads its answer again."""
        super().resume_writing()
        self._enter_phase("")
        self._update_phase()
        self._resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer of a closed connection."""
        self._enter_phase("")
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse data that is not HTTP, with an error in the form of all other refusals."""
        body = json_bytes({"error": msg.rstrip(".").replace("Invalid", "invalid")})
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _resume_reading(self) -> None:
        """Resume reading when the client has read its refusals, unless uvicorn paused it for its own reasons."""
        if self._reading_paused and not (self.flow.write_paused or self.pipeline or self.transport.is_closing()):
            self._reading_paused = False
            self.flow.resume_reading()

    def _update_phase(self) -> None:
        """Enter the phase of the connection's state; the phase of writing is left in `resume_writing` alone."""
        cycle = self.cycle
        if self._phase == "write":
            return
        if self._refused or (cycle is not None and cycle.more_body):
            self._enter_phase("body")
        else:
            idle = self.timeout_keep_alive_task is not None  # uvicorn itself limits the time between two requests
            working = cycle is not None and not cycle.response_complete
            self._enter_phase("" if idle or working else "head")

    def _enter_phase(self, phase: str) -> None:
        if phase == self._phase:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._phase = phase
        seconds = {"head": self._options.header_s, "body": self._options.body_s, "write": self._options.write_s}
        self._timer = self.loop.call_later(seconds[phase], self._abort) if phase else None

    def _abort(self) -> None:
        self.transport.abort()
