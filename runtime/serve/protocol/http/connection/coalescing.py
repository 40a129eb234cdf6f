"""Write coalescing: uvicorn writes head and body apart, and each write is a system call that wakes the client."""

import asyncio
from typing import Any


class CoalescingTransport(asyncio.Transport):
    """A transport that sends all data of one iteration of the event loop together, at its end."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes | bytearray | memoryview] = []

    def write(self, data: "bytes | bytearray | memoryview") -> None:
        """Send `data` together with all other data of this iteration."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def write_whole(self, data: bytes) -> None:
        """Send `data`, a whole answer, at once, since the end of a busy iteration may be far."""
        self._pieces.append(data)
        self._flush()

    def close(self) -> None:
        """Send the written data and close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once and drop unsent data."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Return whether the transport is closed or closing."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue to read from the client."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a detail of the transport, such as an address, the socket or TLS."""
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():  # the client may have disconnected in this iteration
            self._transport.writelines(pieces)
