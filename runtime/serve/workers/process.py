"""The server's side of a worker process: it is started with a socket pair, and ended by closing the socket."""

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
"""Buffer of the socket in each direction, so that a batch of pictures is sent in few system calls."""
_END_S = 2.0
"""Longest time that a process may take to end after its socket was closed."""


class Link(Protocol):
    """The connection to a started worker."""

    def send(self, message: object) -> None:
        """Send a message; it is dropped if the worker has ended."""
        ...

    async def ended(self) -> str:
        """Wait until the worker has ended, and return how."""
        ...

    def kill(self) -> None:
        """Kill the worker."""
        ...

    async def close(self) -> None:
        """Close the connection, and kill the worker if it does not end."""
        ...


Receive = Callable[[Any], None]
Launch = Callable[[Receive], Awaitable[Link]]
"""Function that starts a worker and passes each of its messages to the given function."""


def process_launcher(setup: Setup) -> Launch:
    """Return a function that starts worker processes which open `setup`."""

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
    """A worker process and the socket to it."""

    def __init__(self, process: asyncio.subprocess.Process, transport: asyncio.Transport, frames: "_Frames") -> None:
        self._process = process
        self._transport = transport
        self._frames = frames

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def send(self, message: object) -> None:
        """Send a message; it is dropped if the process has ended."""
        if not self._transport.is_closing():
            for piece in frame(message):
                self._transport.write(piece)

    async def ended(self) -> str:
        """Wait until the socket is closed, end the process if it still runs, and return how it ended."""
        await self._frames.lost
        await self.close()
        code = self._process.returncode or 0
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def kill(self) -> None:
        """Kill the process."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> None:
        """Close the socket, which makes the process end; kill it if it does not."""
        self._transport.close()
        try:
            await asyncio.wait_for(self._process.wait(), _END_S)
        except asyncio.TimeoutError:
            self.kill()
            await self._process.wait()


class _Frames(asyncio.BufferedProtocol):
    """The protocol that passes each message to a function; the future `lost` is done at the end of the connection."""

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
