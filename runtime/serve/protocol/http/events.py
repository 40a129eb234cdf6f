"""Answers as server-sent events, part by part."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from internvl_edge.runtime.serve.protocol.http.disconnect import cancel_on_disconnect
from internvl_edge.runtime.serve.protocol.http.responses import json_bytes
from internvl_edge.runtime.serve.requests import Response

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class EventStream:
    """A response of server-sent events; a refusal after the first part is the last event.

    Args:
        parts: The parts of the answer.
        render: Function that returns the contents of the events of a part.
        refused: Function that returns the content of the event of an error.
        end: Data of an event that follows a complete answer; empty for no such event.
    """

    def __init__(
        self,
        parts: AsyncIterator[Response],
        render: Callable[[Response], Iterable[dict[str, Any]]],
        refused: Callable[[Exception], dict[str, Any]],
        end: bytes = b"",
    ) -> None:
        self._parts = parts
        self._render = render
        self._refused = refused
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts as they come; an error before the first part is raised."""
        await cancel_on_disconnect(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with aclosing(cast("AsyncGenerator[Response, None]", self._parts)) as parts:
            events = self._events(await anext(parts))
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": events, "more_body": True})
            last = b"data: %b\n\n" % self._end if self._end else b""
            try:
                async for part in parts:
                    await send({"type": "http.response.body", "body": self._events(part), "more_body": True})
            except Exception as error:
                last = _event(self._refused(error))
        await send({"type": "http.response.body", "body": last, "more_body": False})

    def _events(self, part: Response) -> bytes:
        return b"".join(map(_event, self._render(part)))


def _event(content: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json_bytes(content)
