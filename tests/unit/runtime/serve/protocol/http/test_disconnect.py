"""Work that ends with its client: given, failed, withdrawn, or cancelled from elsewhere."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.http.disconnect import ClientDisconnectedError, cancel_on_disconnect


class Client:
    """Sends nothing, or hangs up when it is told to."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 1:
            return {"type": "http.request", "body": b""}
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def run(story: "Callable[[Client], Any]") -> Any:
    async def told() -> Any:
        return await story(Client())

    return asyncio.run(told())


def test_an_answer_that_comes_is_given() -> None:
    async def story(client: Client) -> str:
        async def work() -> str:
            await asyncio.sleep(0)
            return "answer"

        return await cancel_on_disconnect(client.receive, work())

    assert run(story) == "answer"


def test_a_client_that_leaves_ends_the_work() -> None:
    ended = []

    async def story(client: Client) -> None:
        async def work() -> None:
            try:
                client.leaves.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(True)
                raise

        with pytest.raises(ClientDisconnectedError):
            await cancel_on_disconnect(client.receive, work())

    run(story)
    assert ended == [True]


def test_a_failure_is_the_works_own() -> None:
    async def story(client: Client) -> None:
        async def work() -> None:
            raise ValueError("of the work")

        with pytest.raises(ValueError, match="of the work"):
            await cancel_on_disconnect(client.receive, work())

    run(story)


def test_a_task_that_is_cancelled_from_elsewhere_stays_cancelled() -> None:
    async def story(client: Client) -> None:
        async def work() -> None:
            await asyncio.Event().wait()

        task = asyncio.ensure_future(cancel_on_disconnect(client.receive, work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(story)


def test_who_leaves_after_the_answer_cancels_nothing() -> None:
    async def story(client: Client) -> str:
        async def work() -> str:
            return "answer"

        found = await cancel_on_disconnect(client.receive, work())
        client.leaves.set()
        for _ in range(5):
            await asyncio.sleep(0)
        return found

    assert run(story) == "answer"
