"""HTTP client that needs less CPU than the servers which `serve_http.py` and `serve_soak.py` measure."""

import asyncio
from typing import cast

_LENGTH = b"content-length:"


class Connection(asyncio.Protocol):
    """Connection that sends one request after the other; `connect` opens it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[str] | None = None
        self._received = b""
        self._whole = 0
        """Number of bytes of the answer, with head and body; 0 until its head is complete."""
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has another class

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending request."""
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Complete the pending request with its status when the body is complete."""
        self._received += data
        if not self._whole and (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            start = head.index(_LENGTH) + len(_LENGTH)
            self._whole = end + 4 + int(head[start:].split(b"\r\n", 1)[0])
        if self._whole and len(self._received) >= self._whole and self._answer is not None:
            self._answer.set_result(self._received[9:12].decode())
            self._received, self._whole, self._answer = b"", 0, None

    async def ask(self, request: bytes) -> str:
        """Return the status of the answer to `request`.

        Raises:
            ConnectionError: the server closed the connection.
        """
        if not self.open or self._transport is None:
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def connect(port: int) -> Connection:
    """Return a connection to a port of this machine."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection
