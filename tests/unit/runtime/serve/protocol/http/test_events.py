"""Server-sent events of an answer: its parts in order, an error among them, and the end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.protocol.http.events import EventStream
from internvl_edge.runtime.serve.refusals import FailedError
from internvl_edge.runtime.serve.requests import Response


def rendered(part: Response) -> list[dict[str, Any]]:
    return [{"text": word} for word in part.outputs["text"].item().split()]


async def parts(*texts: str) -> AsyncIterator[Response]:
    for text in texts:
        if text == "fails":
            raise FailedError("no more of it")
        yield Response(outputs={"text": np.array(text)})


def sent(answer: EventStream) -> list[Any]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        await asyncio.sleep(60)

    asyncio.run(answer({}, receive, send))
    return messages


@pytest.mark.parametrize("end", [b"", b"[DONE]"])
def test_each_part_is_sent_as_its_events_and_then_the_end(end: bytes) -> None:
    start, *bodies = sent(EventStream(parts("a red", "", "kite"), rendered, lambda error: {}, end))
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert [body["body"] for body in bodies] == [
        b'data: {"text":"a"}\n\ndata: {"text":"red"}\n\n',
        b"",
        b'data: {"text":"kite"}\n\n',
        b"data: [DONE]\n\n" if end else b"",
    ]
    assert [body["more_body"] for body in bodies] == [True, True, True, False]


def test_an_error_is_the_last_event_and_nothing_is_called_done() -> None:
    answer = EventStream(parts("a", "fails"), rendered, lambda error: {"error": str(error)}, b"[DONE]")
    assert [body["body"] for body in sent(answer)[1:]] == [
        b'data: {"text":"a"}\n\n',
        b'data: {"error":"no more of it"}\n\n',
    ]


def test_an_error_before_the_first_part_is_raised() -> None:
    with pytest.raises(FailedError, match="no more"):
        sent(EventStream(parts("fails"), rendered, lambda error: {}))
