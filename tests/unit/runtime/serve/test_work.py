"""A request whose rows go apart: what is joined, when it is answered, and what a lost worker leaves of a stream."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.refusals import FailedError, UnavailableError
from internvl_edge.runtime.serve.requests import Request
from internvl_edge.runtime.serve.scheduling.ticket import Key, Slice, Ticket
from internvl_edge.runtime.serve.work import StreamedWork, Work
from tests.unit.runtime.serve.chat_model import chat_model
from tests.unit.runtime.serve.fake_engine import FakeEngine


def on_a_loop(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a coroutine function."""

    def test() -> None:
        asyncio.run(story())

    return test


def work(kind: type[Work] = Work, rows: int = 5, outputs: tuple[str, ...] | None = None) -> Any:
    model = "caption" if kind is StreamedWork else "sum"
    given = ("image",) if kind is StreamedWork else ("a", "b")
    inputs = {name: np.zeros((rows, 4), np.float32) for name in given}
    return kind(Request(model=model, inputs=inputs, outputs=outputs), FakeEngine().models[model])


def part(start: int, stop: int) -> Slice:
    return Slice(Ticket(key=Key("sum", None), rows=5, arrived=0.0), start, stop)


def totals(*values: float) -> dict[str, np.ndarray]:
    return {"total": np.array([[value] for value in values], np.float32), "more": np.zeros(len(values))}


@on_a_loop
async def test_rows_are_joined_in_their_order_once_all_are_there() -> None:
    made = work()
    made.take(part(3, 5), totals(3, 4))
    made.take(part(0, 1), totals(0))
    assert not made.complete
    assert not made.answer.done()
    made.take(part(1, 3), totals(1, 2))
    assert made.complete
    outputs = (await made.answer).outputs
    assert list(outputs) == ["total"], "what the model's signature names"
    assert outputs["total"].ravel().tolist() == [0, 1, 2, 3, 4]


@on_a_loop
async def test_an_answer_of_one_part_is_that_part() -> None:
    made, array = work(), totals(0, 1, 2, 3, 4)
    made.take(part(0, 5), array)
    assert (await made.answer).outputs["total"] is array["total"], "nothing is copied"


@on_a_loop
async def test_only_outputs_that_are_asked_for_are_given() -> None:
    made = work(outputs=("other",))
    made.take(part(0, 5), totals(0, 1, 2, 3, 4))
    assert (await made.answer).outputs == {}


@on_a_loop
async def test_the_first_reason_stands() -> None:
    made = work()
    made.fail(FailedError("first"))
    made.fail(UnavailableError("second", 1.0))
    made.take(part(0, 5), totals(0, 1, 2, 3, 4))
    with pytest.raises(FailedError, match="first"):
        await made.answer


@on_a_loop
async def test_a_request_that_nobody_waits_for_is_not_reported() -> None:
    made = work()
    made.close()
    made.fail(FailedError("too late"))
    assert not made.answer.done()
    failed = work()
    failed.fail(FailedError("no"))
    failed.close()
    withdrawn = work()
    withdrawn.answer.cancel()
    withdrawn.close()
    assert made.closed
    made.piece(part(0, 1), 0, "ignored")
    made.lost(part(0, 1))


@on_a_loop
async def test_pieces_are_given_once_and_the_last_is_final() -> None:
    made = work(StreamedWork, 2)
    assert not made.begun
    made.piece(part(0, 2), 1, "b")
    made.piece(part(0, 2), 0, "a ")
    made.piece(part(0, 2), 0, "kite")
    first = await made.next()
    assert (first.outputs["text"].tolist(), first.final, made.begun) == ([b"a kite", b"b"], False, True)
    made.piece(part(1, 2), 0, "oat")  # the first row of this part is the second of the request
    made.take(part(0, 1), {})
    made.take(part(1, 2), {})
    last = await made.next()
    assert (last.outputs["text"].tolist(), last.final) == ([b"", b"oat"], True)


@on_a_loop
async def test_what_a_second_worker_repeats_is_not_given_twice() -> None:
    made = work(StreamedWork, 1)
    made.piece(part(0, 1), 0, "a red")
    assert (await made.next()).outputs["text"].tolist() == [b"a red"]
    made.lost(part(0, 1))
    made.piece(part(0, 1), 0, "a r")
    assert (await made.next()).outputs["text"].tolist() == [b""], "it was given before"
    made.piece(part(0, 1), 0, "ed kite")
    assert (await made.next()).outputs["text"].tolist() == [b" kite"]
    assert not made.answer.done()


@on_a_loop
async def test_a_second_worker_that_writes_otherwise_ends_the_answer() -> None:
    made = work(StreamedWork, 1)
    made.piece(part(0, 1), 0, "a red")
    await made.next()
    made.lost(part(0, 1))
    made.piece(part(0, 1), 0, "a blue")
    assert (await made.next()).final
    with pytest.raises(FailedError, match="caption: a worker was lost, and the answer can't be taken up again"):
        await made.answer


@on_a_loop
async def test_a_stream_that_fails_wakes_who_waits() -> None:
    made = work(StreamedWork, 1)
    made.fail(UnavailableError("stopping", 1.0))
    assert (await made.next()).final
    with pytest.raises(UnavailableError):
        await made.answer


@on_a_loop
async def test_the_last_part_of_a_text_has_the_other_outputs() -> None:
    served = chat_model()
    made = StreamedWork(Request(model="chat", inputs={"question": np.array([b"?"], np.object_)}), served)
    alone = Slice(Ticket(key=Key("chat", None), rows=1, arrived=0.0), 0, 1)
    made.piece(alone, 0, "a kite")
    first = await made.next()
    assert (list(first.outputs), first.final) == (["text"], False)
    assert first.first_at == made.first_at is not None
    made.take(alone, {"text": np.array([b"a kite"], np.object_), "completion_tokens": np.array([2])})
    last = await made.next()
    assert (last.outputs["text"].tolist(), last.final) == ([b""], True)
    assert last.outputs["completion_tokens"].tolist() == [2]
