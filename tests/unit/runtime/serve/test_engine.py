"""The pool of workers and the fake that protocols are tested on offer what the protocol of engines says."""

import inspect

import pytest

from internvl_edge.runtime.serve.engine import Engine
from internvl_edge.runtime.serve.pool import WorkerEngine
from tests.unit.runtime.serve.fake_engine import FakeEngine

CALLS = ("require_room", "infer", "stream")


def test_all_of_the_protocol_is_compared() -> None:
    assert {name for name in vars(Engine) if not name.startswith("_")} == {*CALLS, "signatures", "ready"}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("engine", [WorkerEngine, FakeEngine])
def test_an_engine_takes_what_the_protocol_says(engine: type, call: str) -> None:
    found, expected = (inspect.signature(getattr(owner, call)).parameters for owner in (engine, Engine))
    assert list(found) == list(expected)


@pytest.mark.parametrize("engine", [WorkerEngine, FakeEngine])
def test_calls_are_awaited_or_iterated(engine: type) -> None:
    assert inspect.iscoroutinefunction(engine.infer)
    assert inspect.isasyncgenfunction(engine.stream)
    assert not inspect.iscoroutinefunction(engine.require_room)
    assert hasattr(engine, "signatures")
