"""Cancellation of work whose client has disconnected."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientDisconnectedError(Exception):
    """The client has disconnected before its answer was complete."""


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; cancel it as soon as the client, whose body was read to its end, disconnects.

    Raises:
        ClientDisconnectedError: The client has disconnected.
    """
    asking = asyncio.current_task()
    assert asking is not None
    gone = asyncio.ensure_future(_gone(receive))
    give_up = partial(_cancel, asking)
    gone.add_done_callback(give_up)
    try:
        return await work
    except asyncio.CancelledError:
        if gone.done():
            raise ClientDisconnectedError from None
        raise
    finally:
        gone.remove_done_callback(give_up)
        gone.cancel()


def _cancel(asking: "asyncio.Task[Any]", gone: "asyncio.Future[None]") -> None:
    if not gone.cancelled():
        asking.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
