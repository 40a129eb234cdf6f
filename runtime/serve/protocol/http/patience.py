"""Slow clients are cut: for uvicorn waits forever for heads, bodies and readers."""

import asyncio

from internvl_edge.runtime.serve.protocol.http.answers import json_bytes
from internvl_edge.runtime.serve.protocol.http.gathering import GatheringTransport
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions

_HEAD_BYTES = 64 << 10


def patient_protocol(options: ProtocolOptions) -> "type[asyncio.Protocol]":
    """Return uvicorn's HTTP protocol, with an end to its patience."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Patient(HttpToolsProtocol):
        """Holds each connection to the time that a head, a body and the taking of an answer may last."""

        _timer: asyncio.TimerHandle | None = None
        _phase = ""
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(GatheringTransport(transport, self.loop))
            self._enter("head")

        def data_received(self, data: bytes) -> None:
            before = self._phase
            super().data_received(data)
            self._look()
            self._head_bytes = self._head_bytes + len(data) if before == self._phase == "head" else 0
            if self._head_bytes > _HEAD_BYTES:
                self.send_400_response(f"the head is larger than {_HEAD_BYTES} bytes")

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self.cycle.more_body = False  # also of a body that nobody wants to read

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._enter("write")

        def resume_writing(self) -> None:
            super().resume_writing()
            self._enter("")
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self._enter("")
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Refuse what is no HTTP in the words of every other refusal."""
            body = json_bytes({"error": msg.rstrip(".").replace("Invalid", "invalid")})
            head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
            self.transport.close()

        def _look(self) -> None:
            """Enter the phase that the connection is in, unless it stands still while an answer is written."""
            cycle = self.cycle
            if self._phase == "write":
                return
            if cycle is not None and cycle.more_body:
                self._enter("body")
            else:
                idle = self.timeout_keep_alive_task is not None  # uvicorn's own patience with those who ask nothing
                working = cycle is not None and not cycle.response_complete
                self._enter("" if idle or working else "head")

        def _enter(self, phase: str) -> None:
            if phase == self._phase:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._phase = phase
            seconds = {"head": options.header_s, "body": options.body_s, "write": options.write_s}
            self._timer = self.loop.call_later(seconds[phase], self._cut) if phase else None

        def _cut(self) -> None:
            self.transport.abort()

    return Patient
