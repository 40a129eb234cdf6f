"""Slow clients are cut, since uvicorn waits forever for heads, bodies and readers; and requests pass the admission.

What is used of uvicorn's protocol has no underscore before its name, and a test names all of it. uvicorn documents none
of these names, so that pyproject.toml bounds its version to those that were tried.
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
    """Holds each connection to the time that a head, a body and the taking of an answer may last."""

    _options: ProtocolOptions
    _admission: AdmissionControl
    _timer: asyncio.TimerHandle | None = None
    _phase = ""
    _head_bytes = 0
    _refused = False
    """The request that is read was refused by its head."""
    _closes = False
    """The connection ends with the request that was refused."""
    _heads = 0
    """Requests that began in the last piece of data."""
    _refusals = 0
    """Requests that were refused in it."""
    _holds = False
    """Nothing is read, since the client asks faster than it takes refusals."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        self._coalescing = CoalescingTransport(transport, self.loop)
        super().connection_made(self._coalescing)
        self._enter("head")

    def data_received(self, data: bytes) -> None:
        """Parse a piece of data, and stop reading where it held more refusals than the client takes."""
        before, self._refusals, self._heads = self._phase, 0, 0
        super().data_received(data)
        if self._refusals > 1 or (self._refusals and self.flow.write_paused):
            self._holds = True
            self.flow.pause_reading()  # other connections are served meanwhile
            self.loop.call_soon(self._read_on)
        self._look()
        grows = before == self._phase == "head" and self._heads <= 1
        self._head_bytes = self._head_bytes + len(data) if grows else 0
        if self._head_bytes > _HEAD_BYTES:
            self.send_400_response(f"the head is larger than {_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Give the head that begins a time of its own."""
        self._heads, self._head_bytes = self._heads + 1, 0
        if self._phase != "write":
            self._enter("")  # each head has its own time, also behind a request that was refused in the same piece
        if self.timeout_keep_alive_task is not None:  # set by the answer to a refused request in the same piece
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Admit the request by its head, or refuse it before its body is read."""
        self._refused = False
        if self.cycle is None or self.cycle.response_complete:  # answers keep the order of requests
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
        """Answer at once; the body is read and dropped, unless its client waits for a word before sending it."""
        self._refused = True
        self._refusals += 1
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._closes = self.expect_100_continue or not keeps
        headers = [*self.server_state.default_headers, *([(b"connection", b"close")] if self._closes else [])]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._coalescing.write_whole(b"HTTP/1.1 429 Too Many Requests\r\n" + lines + answer)
        if self.expect_100_continue:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Drop the body of a request that was refused."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request that was refused; uvicorn ends the others."""
        if self._refused:
            self._refused = False
            self.on_response_complete()
            if self._closes:
                self.transport.close()
            return
        super().on_message_complete()
        self.cycle.more_body = False  # also of a body that nobody wants to read

    def on_response_complete(self) -> None:
        """Wait for what comes after an answer."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not take its answer."""
        super().pause_writing()
        self._enter("write")

    def resume_writing(self) -> None:
        """Go on with a client that takes its answer again."""
        super().resume_writing()
        self._enter("")
        self._look()
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock of a connection that is gone."""
        self._enter("")
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in the words of every other refusal."""
        body = json_bytes({"error": msg.rstrip(".").replace("Invalid", "invalid")})
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _read_on(self) -> None:
        """Read again once refusals are taken; what uvicorn holds back for reasons of its own stays so."""
        if self._holds and not (self.flow.write_paused or self.pipeline or self.transport.is_closing()):
            self._holds = False
            self.flow.resume_reading()

    def _look(self) -> None:
        """Enter the phase that the connection is in, unless it stands still while an answer is written."""
        cycle = self.cycle
        if self._phase == "write":
            return
        if self._refused or (cycle is not None and cycle.more_body):
            self._enter("body")
        else:
            idle = self.timeout_keep_alive_task is not None  # uvicorn itself limits how long nothing is asked
            working = cycle is not None and not cycle.response_complete
            self._enter("" if idle or working else "head")

    def _enter(self, phase: str) -> None:
        if phase == self._phase:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._phase = phase
        seconds = {"head": self._options.header_s, "body": self._options.body_s, "write": self._options.write_s}
        self._timer = self.loop.call_later(seconds[phase], self._cut) if phase else None

    def _cut(self) -> None:
        self.transport.abort()
