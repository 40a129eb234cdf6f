"""A worker's process as the server sees it: started over a socket pair, spoken to in frames, ended by closing it."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from internvl_edge.runtime.serve.workers.frames import FrameReader, frame
from internvl_edge.runtime.serve.workers.messages import Setup

_CHILD = "internvl_edge.runtime.serve.workers.worker_main"
_BUFFER_BYTES = 4 << 20
"""Of the socket, each way: a batch of pictures is handed over in few calls."""
_END_S = 2.0
"""How long a process may take to end after its socket was closed."""


class Link(Protocol):
    """A worker that was started."""

    def send(self, message: object) -> None:
        """Send a message; to a worker that has gone, nothing."""
        ...

    async def ended(self) -> str:
        """Wait until it is gone, and return how it ended."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    async def close(self) -> None:
        """Let it end, or end it."""
        ...


Receive = Callable[[Any], None]
Launch = Callable[[Receive], Awaitable[Link]]
"""Starts a worker, of which each message goes to the callable."""


def process_launcher(setup: Setup) -> Launch:
    """Return what starts processes that open `setup`."""

    async def launch(receive: Receive) -> Link:
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            number = theirs.fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", _CHILD, str(number), pass_fds=[number], stdin=asyncio.subprocess.DEVNULL
            )
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, frames = await loop.create_connection(lambda: _Frames(receive), sock=ours)
        link = ProcessLink(process, transport, frames)
        link.send(setup)
        return link

    return launch


class ProcessLink:
    """A process and the socket to it."""

    def __init__(self, process: asyncio.subprocess.Process, transport: asyncio.Transport, frames: "_Frames") -> None:
        self._process = process
        self._transport = transport
        self._frames = frames

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    def send(self, message: object) -> None:
        """Send a message; to a process that has gone, nothing."""
        if not self._transport.is_closing():
            for piece in frame(message):
                self._transport.write(piece)

    async def ended(self) -> str:
        """Wait until the socket is closed, end the process if it outlives that, and return how it ended."""
        await self._frames.lost
        await self.close()
        code = self._process.returncode or 0
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> None:
        """Close the socket, on which the process ends by itself; if it does not, kill it."""
        self._transport.close()
        try:
            await asyncio.wait_for(self._process.wait(), _END_S)
        except asyncio.TimeoutError:
            self.kill()
            await self._process.wait()


class _Frames(asyncio.BufferedProtocol):
    """Hands on each message; `lost` is done when no more comes."""

    def __init__(self, receive: Receive) -> None:
        self._reader = FrameReader()
        self._receive = receive
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        for message in self._reader.received(nbytes):
            self._receive(message)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
