"""Answers in one piece: uvicorn writes head and body apart, and each write is a system call that wakes the client."""

import asyncio
from typing import Any


class CoalescingTransport(asyncio.Transport):
    """Sends what is written in one turn of the event loop at its end."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes | bytearray | memoryview] = []

    def write(self, data: "bytes | bytearray | memoryview") -> None:
        """Send `data` with whatever else is written in this turn."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def write_whole(self, data: bytes) -> None:
        """Send `data`, a whole answer, at once: nothing else belongs to it, and the end of a busy turn is far."""
        self._pieces.append(data)
        self._flush()

    def close(self) -> None:
        """Close, once all that was written is sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Return whether it is closed or about to be."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Take nothing from the client for a while."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take what the client sends."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport knows: addresses, the socket, TLS."""
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():  # a client may go within the turn
            self._transport.writelines(pieces)
