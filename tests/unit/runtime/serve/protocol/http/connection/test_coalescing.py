"""Data that is written in one iteration of the event loop is sent in one piece, and before a connection closes."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.http.connection.coalescing import CoalescingTransport


class Wire(asyncio.Transport):
    """Records the calls that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def is_closing(self) -> bool:
        return bool(self.calls) and self.calls[-1] in ("close", "abort")

    def abort(self) -> None:
        self.calls.append("abort")

    def writelines(self, pieces: Iterable[Any]) -> None:
        self.calls.append(list(pieces))

    def close(self) -> None:
        self.calls.append("close")


def test_one_turn_is_one_piece() -> None:
    async def scene() -> None:
        wire = Wire()
        transport = CoalescingTransport(wire, asyncio.get_running_loop())
        transport.write(b"head")
        transport.write(b"body")
        assert wire.calls == []
        await asyncio.sleep(0)
        transport.write(b"more")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wire.calls == [[b"head", b"body"], [b"more"]]

    asyncio.run(scene())


def test_a_whole_answer_does_not_wait_for_the_end_of_the_iteration() -> None:
    async def scene() -> None:
        wire = Wire()
        transport = CoalescingTransport(wire, asyncio.get_running_loop())
        transport.write_whole(b"answer")
        assert wire.calls == [[b"answer"]]
        transport.write(b"head")
        transport.write_whole(b"answer")  # behind what was written before
        assert wire.calls[1:] == [[b"head", b"answer"]]
        await asyncio.sleep(0)
        assert len(wire.calls) == 2

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("end", "calls"),
    [
        ("close", [[b"answer"], "close"]),  # what was written is sent before
        ("abort", ["abort"]),  # nothing is sent to a client that disconnected in the iteration
    ],
)
def test_a_connection_may_end_within_the_iteration(end: str, calls: list[Any]) -> None:
    async def scene() -> None:
        wire = Wire()
        transport = CoalescingTransport(wire, asyncio.get_running_loop())
        transport.write(b"answer")
        getattr(transport, end)()
        await asyncio.sleep(0)
        assert wire.calls == calls

    asyncio.run(scene())
