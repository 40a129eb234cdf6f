"""The engine's answers of a chat model over workers that the tests play: one at a time, in turn, and given up early."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve import pool
from internvl_edge.runtime.serve.models import CHAT
from internvl_edge.runtime.serve.pool import WorkerEngine
from internvl_edge.runtime.serve.refusals import BadRequestError, DeadlineExceededError, UnavailableError
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.workers.messages import Done, Job, Piece
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.chat_model import chat_model
from tests.unit.runtime.serve.onnx_bundle import write_onnx_bundle
from tests.unit.runtime.serve.test_pool import Played, Stage, run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx_bundle(tmp_path_factory.mktemp("answers") / "bundle")


@pytest.fixture(autouse=True)
def _served(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pool.served_models
    monkeypatch.setattr(pool, "served_models", lambda *given: {**original(*given), CHAT: chat_model()})


def strings(*values: bytes) -> np.ndarray:
    return np.array([*values, None], np.object_)[:-1]


def question(words: str, **more: Any) -> Request:
    return Request(model=CHAT, inputs={"question": strings(words.encode())}, **more)


def asked(job: Job) -> str:
    words: str = job.parts[0]["question"].item().decode()
    return words


def write(worker: Played, job: Job) -> None:
    """Answer with the question, letter by letter."""
    for letter in asked(job):
        worker.receive(Piece(job.id, 0, 0, letter))
    end(worker, job)


def end(worker: Played, job: Job) -> None:
    counts = {"prompt_tokens": np.array([3]), "completion_tokens": np.array([len(asked(job))])}
    outputs = {"text": strings(asked(job).encode()), "finish_reason": strings(b"stop"), **counts}
    worker.receive(Done(job.id, (outputs,), {"compute": 0.1}, 0.1))


def text(response: Response) -> str:
    words: str = response.outputs["text"].item().decode()
    return words


def test_an_answer_is_whole_or_comes_in_parts_of_which_the_last_has_its_figures(bundle: Path) -> None:
    stage = Stage(write)

    async def scene(served: WorkerEngine) -> None:
        began = time.monotonic()
        whole = await served.infer(question("Hello"))
        assert (text(whole), whole.outputs["completion_tokens"].item()) == ("Hello", 5)
        assert whole.first_at is not None
        assert began <= whole.first_at <= time.monotonic()
        parts = [part async for part in served.stream(question("Hello"))]
        assert "".join(map(text, parts)) == "Hello"
        assert parts[-1].outputs["finish_reason"].item() == b"stop"
        assert parts[-1].first_at is not None
        assert all(job.stream for job in stage.workers[0].jobs), "so that it can end between two tokens"

    run(bundle, stage, scene)


def test_a_worker_has_one_answer_at_a_time_and_clients_take_turns(bundle: Path) -> None:
    stage = Stage(lambda worker, job: None)

    async def scene(served: WorkerEngine) -> None:
        waiting = {
            words: asyncio.ensure_future(served.infer(question(words, client=words[0])))
            for words in ("a1", "a2", "a3", "b1")
        }
        (worker,) = stage.workers
        for count in range(1, 5):
            while len(worker.jobs) < count:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert len(worker.jobs) == count
            end(worker, worker.jobs[-1])
        assert [text(await each) for each in waiting.values()] == ["a1", "a2", "a3", "b1"]
        assert [asked(job) for job in worker.jobs] == ["a1", "b1", "a2", "a3"]

    run(bundle, stage, scene)


def test_two_workers_write_two_answers(bundle: Path) -> None:
    stage = Stage(lambda worker, job: None)

    async def scene(served: WorkerEngine) -> None:
        waiting = [asyncio.ensure_future(served.infer(question(words))) for words in ("one", "two", "three")]
        while sum(len(worker.jobs) for worker in stage.workers) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert [len(worker.jobs) for worker in stage.workers] == [1, 1]
        stage.play = end
        for worker in stage.workers:
            end(worker, worker.jobs[0])
        assert [text(await each) for each in waiting] == ["one", "two", "three"]

    run(bundle, stage, scene, workers=2)


def test_whoever_leaves_ends_an_answer_that_is_not_streamed_too(bundle: Path) -> None:
    stage = Stage(lambda worker, job: worker.receive(Piece(job.id, 0, 0, "a")))

    async def scene(served: WorkerEngine) -> None:
        leaving = asyncio.ensure_future(served.infer(question("first")))
        while not (stage.workers and stage.workers[0].jobs):
            await asyncio.sleep(0)
        following = asyncio.ensure_future(served.infer(question("next")))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.sleep(0.01)
        (worker,) = stage.workers
        assert worker.cancelled == [worker.jobs[0].id]
        assert len(worker.jobs) == 1, "the next one waits for the worker"
        stage.play = end
        worker.receive(Done(worker.jobs[0].id, (), {}, 0.1))
        assert text(await following) == "next"

    run(bundle, stage, scene)


def test_a_deadline_is_that_of_a_whole_answer_or_of_the_first_piece(bundle: Path) -> None:
    def play(worker: Played, job: Job) -> None:
        worker.receive(Piece(job.id, 0, 0, asked(job)))
        asyncio.get_running_loop().call_later(0.4, end, worker, job)

    async def scene(served: WorkerEngine) -> None:
        parts = [text(part) async for part in served.stream(question("x", deadline=time.monotonic() + 0.2))]
        assert "".join(parts) == "x"
        with pytest.raises(DeadlineExceededError, match="--answer-deadline-s"):
            await served.infer(question("x", deadline=time.monotonic() + 0.2))
        (worker,) = stage.workers
        assert worker.cancelled == [worker.jobs[-1].id]

    stage = Stage(play)
    run(bundle, stage, scene)


def test_a_worker_that_is_lost_is_followed_by_another_with_the_same_answer(bundle: Path) -> None:
    def play(worker: Played, job: Job) -> None:
        worker.receive(Piece(job.id, 0, 0, asked(job)[:2]))
        worker.kill() if worker is stage.workers[0] else write(worker, job)

    stage = Stage(play)

    async def scene(served: WorkerEngine) -> None:
        whole = asyncio.ensure_future(served.infer(question("Hello", deadline=time.monotonic() + HANG_S)))
        assert text(await whole) == "Hello"

    run(bundle, stage, scene)


def test_a_refusal_of_the_worker_keeps_its_field(bundle: Path) -> None:
    refusal = BadRequestError("chat: too long", param="messages", code="context_length_exceeded")
    stage = Stage(lambda worker, job: worker.receive(Done(job.id, (refusal,), {}, 0.1)))

    async def scene(served: WorkerEngine) -> None:
        with pytest.raises(BadRequestError, match="too long") as caught:
            async for _ in served.stream(question("Hello")):
                pass
        assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")

    run(bundle, stage, scene)


def test_an_answer_under_way_is_finished_before_the_server_stops(bundle: Path) -> None:
    def play(worker: Played, job: Job) -> None:
        worker.receive(Piece(job.id, 0, 0, asked(job)))
        asyncio.get_running_loop().call_later(0.2, end, worker, job)

    async def scene(served: WorkerEngine) -> None:
        under_way = asyncio.ensure_future(served.infer(question("Hello")))
        await asyncio.sleep(0.05)
        closing = asyncio.ensure_future(served.close(HANG_S))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await served.infer(question("Late"))
        assert text(await under_way) == "Hello"
        await closing

    run(bundle, Stage(play), scene)
