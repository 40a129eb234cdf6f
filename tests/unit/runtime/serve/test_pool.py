"""The engine over workers that the tests play: retries, poison, streams, deadlines, withdrawal and the cache."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.serve import pool
from internvl_edge.runtime.serve.models import CAPTION
from internvl_edge.runtime.serve.observer import NullObserver
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.pool import WorkerEngine
from internvl_edge.runtime.serve.refusals import (
    BadRequestError,
    DeadlineExceededError,
    FailedError,
    OverloadedError,
    RefusalError,
    UnavailableError,
    UnknownModelError,
)
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.workers.messages import Arrays, Cancel, Done, Job, Opened, OpenFailed, Piece, Setup
from internvl_edge.runtime.serve.workers.process import Launch, Link, Receive
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.onnx_bundle import write_onnx_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx_bundle(tmp_path_factory.mktemp("played") / "bundle")


class Played:
    """A worker that does what `play` does with each job, and ends on request."""

    def __init__(self, stage: "Stage", receive: Receive) -> None:
        self.stage, self.receive = stage, receive
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.jobs: list[Job] = []
        self.cancelled: list[int] = []

    def send(self, message: object) -> None:
        if isinstance(message, Cancel):
            self.cancelled.append(message.id)
        elif isinstance(message, Job) and not self.gone.done():
            self.jobs.append(message)
            asyncio.get_running_loop().call_soon(self.stage.play, self, message)

    def answer(self, job: Job) -> None:
        """Return the sums of ids, or the mean of pictures' bytes."""
        if not self.gone.done():
            self.receive(Done(job.id, tuple(map(_outputs, job.parts)), {"compute": 0.001}, 0.001))

    def kill(self) -> None:
        if not self.gone.done():
            self.gone.set_result("ended by SIGKILL")

    async def ended(self) -> str:
        return await asyncio.shield(self.gone)

    async def close(self) -> None:
        self.kill()


def _outputs(part: Arrays) -> Arrays:
    if "image" in part:
        return {"embedding": np.array([[len(content), 0, 0] for content in part["image"]], np.float32)}
    return {"text_embeds": part["input_ids"].sum(axis=1, keepdims=True).astype(np.float32)}


class Stage:
    """All workers of one test, in order of their start."""

    def __init__(self, play: Callable[[Played, Job], None] = Played.answer, opens: bool = True) -> None:
        self.play = play
        self.opens = opens
        self.workers: list[Played] = []

    def launcher(self, setup: Setup) -> Launch:
        async def launch(receive: Receive) -> Link:
            worker = Played(self, receive)
            self.workers.append(worker)
            message = Opened() if self.opens else OpenFailed("graph text: no memory")
            asyncio.get_running_loop().call_soon(receive, message)
            if not self.opens:
                asyncio.get_running_loop().call_soon(worker.kill)
            return worker

        return launch


def run(bundle: Path, stage: Stage, scene: Callable[[WorkerEngine], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def whole() -> None:
        served = WorkerEngine(bundle, ServeOptions(**{"max_batch": 4, **options}), launcher=stage.launcher)
        await served.start()
        try:
            await asyncio.wait_for(scene(served), HANG_S)
        finally:
            await served.close(1)

    asyncio.run(whole())


def ids(*rows: list[int], **more: Any) -> Request:
    return Request(model="text", inputs={"input_ids": np.array(rows)}, **more)


def pictures(*contents: bytes) -> Request:
    values = np.empty(len(contents), np.object_)
    values[:] = contents
    return Request(model="encode_image", inputs={"image": values})


def value(response: Response) -> float:
    return float(response.outputs["text_embeds"].item())


def test_a_poisonous_request_is_refused_and_its_neighbours_are_answered(bundle: Path) -> None:
    def play(worker: Played, job: Job) -> None:
        poisonous = any(13 in part["input_ids"] for part in job.parts)
        worker.kill() if poisonous else worker.answer(job)

    async def scene(served: WorkerEngine) -> None:
        asked = (served.infer(ids([token])) for token in (11, 12, 13, 14, 15, 16, 17))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [value(each) for each in answers if isinstance(each, Response)] == [11, 12, 14, 15, 16, 17]
        assert isinstance(answers[2], FailedError)

    stage = Stage(play)
    run(bundle, stage, scene)
    assert len(stage.workers) == 3, "started, lost with the batch, lost with the poison alone"


def test_a_worker_that_hangs_is_ended_and_its_request_answered_by_the_next(bundle: Path) -> None:
    def play(worker: Played, job: Job) -> None:
        if worker is not stage.workers[0] or job.parts[0]["input_ids"].item() == 1:
            worker.answer(job)

    async def scene(served: WorkerEngine) -> None:
        assert value(await served.infer(ids([1]))) == 1
        await asyncio.sleep(0.7)  # idle is not hanging
        (worker,) = served.workers
        assert worker.failures == 0
        assert value(await served.infer(ids([2], deadline=time.monotonic() + HANG_S))) == 2

    stage = Stage(play)
    run(bundle, stage, scene, stall_s=0.5)
    assert len(stage.workers) == 2


def test_a_deadline_ends_the_wait_and_the_work_is_cancelled(bundle: Path) -> None:
    stage = Stage(lambda worker, job: None)

    async def scene(served: WorkerEngine) -> None:
        asked = [
            asyncio.ensure_future(served.infer(ids([token], deadline=time.monotonic() + 0.5))) for token in range(6)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, DeadlineExceededError) for answer in answers)
        (worker,) = stage.workers
        assert [len(job.parts) for job in worker.jobs] == [4], "two were never begun"
        assert worker.cancelled == [worker.jobs[0].id]
        with pytest.raises(DeadlineExceededError, match="had passed"):
            await served.infer(ids([1], deadline=time.monotonic() - 1))

    run(bundle, stage, scene)


def test_a_caller_that_leaves_withdraws_its_request(bundle: Path) -> None:
    stage = Stage(lambda worker, job: None)

    async def scene(served: WorkerEngine) -> None:
        first, second, third = (asyncio.ensure_future(served.infer(ids([token]))) for token in range(3))
        while not stage.workers[0].jobs:
            await asyncio.sleep(0)
        late = asyncio.ensure_future(served.infer(ids([9])))
        await asyncio.sleep(0)
        late.cancel()
        first.cancel()
        await asyncio.sleep(0.01)
        (worker,) = stage.workers
        assert worker.cancelled == [], "others of the batch still wait"
        worker.answer(worker.jobs[0])
        assert [value(await each) for each in (second, third)] == [1, 2]
        assert len(worker.jobs) == 1

    run(bundle, stage, scene)


def test_pictures_seen_before_are_not_computed_again(bundle: Path) -> None:
    stage = Stage()

    async def scene(served: WorkerEngine) -> None:
        first = await served.infer(pictures(b"1", b"22", b"1"))
        second = await served.infer(pictures(b"22", b"333", b"1"))
        assert first.outputs["embedding"][:, 0].tolist() == [1, 2, 1]
        assert second.outputs["embedding"][:, 0].tolist() == [2, 3, 1]
        sent = [content for job in stage.workers[0].jobs for part in job.parts for content in part["image"]]
        assert sent == [b"1", b"22", b"333"]

    run(bundle, stage, scene)


def test_a_free_worker_is_preferred_and_several_share_the_rows(bundle: Path) -> None:
    stage = Stage(lambda worker, job: None)

    async def scene(served: WorkerEngine) -> None:
        asked = [asyncio.ensure_future(served.infer(ids([token]))) for token in range(8)]
        while sum(len(worker.jobs) for worker in stage.workers) < 2:
            await asyncio.sleep(0)
        assert [len(worker.jobs) for worker in stage.workers] == [1, 1]
        for worker in stage.workers:
            worker.answer(worker.jobs[0])
        assert [value(await each) for each in asked] == list(range(8))

    run(bundle, stage, scene, workers=2)


def test_a_server_whose_workers_do_not_start_again_says_so(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()

    async def scene(served: WorkerEngine) -> None:
        stage.opens = False
        stage.workers[0].kill()
        while served.workers[0].failures < 2:
            await asyncio.sleep(0.01)
        assert not served.ready
        with pytest.raises(UnavailableError) as refused:
            await served.infer(ids([1]))
        assert refused.value.retry_after_s

    run(bundle, stage, scene)


def test_a_first_start_that_fails_says_why(bundle: Path) -> None:
    async def scene(served: WorkerEngine) -> None:
        raise AssertionError

    with pytest.raises(BackendError, match="no memory"):
        run(bundle, Stage(opens=False), scene)


def test_what_was_taken_up_is_refused_when_the_grace_is_over(bundle: Path) -> None:
    stage = Stage(lambda worker, job: None)

    async def scene(served: WorkerEngine) -> None:
        asked = asyncio.ensure_future(served.infer(ids([1])))
        await asyncio.sleep(0.01)
        await served.close(0.01)
        with pytest.raises(UnavailableError):
            await asked

    run(bundle, stage, scene)


def test_an_observer_hears_of_all_of_it(bundle: Path) -> None:
    heard: list[tuple[Any, ...]] = []

    class Listening(NullObserver):
        def accepted(self, model: str) -> None:
            heard.append(("accepted", model))

        def refused(self, model: str, refusal: str) -> None:
            heard.append(("refused", model, refusal))

        def batch(self, model: str, rows: int) -> None:
            heard.append(("batch", model, rows))

        def worker(self, name: str, alive: bool) -> None:
            heard.append(("worker", name, alive))

    async def scene() -> None:
        served = WorkerEngine(bundle, observer=Listening(), launcher=Stage().launcher)
        await served.start()
        await served.infer(ids([1], [2]))
        with pytest.raises(UnknownModelError):
            await served.infer(Request(model="nope", inputs={}))
        await served.close(1)

    asyncio.run(scene())
    assert heard == [
        ("worker", "worker 0", True),
        ("accepted", "text"),
        ("batch", "text", 2),
        ("refused", "nope", "UnknownModelError"),
    ]


class Captions:
    """A model that streams, in front of played workers."""

    @pytest.fixture(autouse=True)
    def _served(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from internvl_edge.runtime.serve import models

        original = pool.served_models
        monkeypatch.setattr(
            pool, "served_models", lambda *given: {**original(*given), CAPTION: models._caption(40, 40)}
        )


def asked_caption(*contents: bytes, **more: Any) -> Request:
    return Request(model=CAPTION, inputs=dict(pictures(*contents).inputs), **more)


async def texts(served: WorkerEngine, request: Request) -> list[list[bytes]]:
    return [part.outputs["text"].tolist() async for part in served.stream(request)]


def joined(parts: list[list[bytes]]) -> list[bytes]:
    return [b"".join(column) for column in zip(*parts, strict=True)]


class TestStreams(Captions):
    def test_pieces_come_as_they_are_written(self, bundle: Path) -> None:
        def play(worker: Played, job: Job) -> None:
            for row, text in ((0, "a"), (1, "two"), (0, " cat")):
                worker.receive(Piece(job.id, 0, row, text))
            worker.receive(Done(job.id, ({},), {}, 0.1))

        async def scene(served: WorkerEngine) -> None:
            parts = await texts(served, asked_caption(b"1", b"2"))
            assert joined(parts) == [b"a cat", b"two"]

        run(bundle, Stage(play), scene)

    def test_a_worker_that_writes_a_long_text_is_not_taken_for_one_that_hangs(self, bundle: Path) -> None:
        def play(worker: Played, job: Job) -> None:
            loop = asyncio.get_running_loop()
            for index in range(1, 6):
                loop.call_later(0.1 * index, worker.receive, Piece(job.id, 0, 0, "a"))
            loop.call_later(0.6, worker.receive, Done(job.id, ({},), {}, 0.6))

        async def scene(served: WorkerEngine) -> None:
            assert joined(await texts(served, asked_caption(b"1", deadline=time.monotonic() + HANG_S))) == [b"aaaaa"]

        stage = Stage(play)
        run(bundle, stage, scene, stall_s=0.3)
        assert len(stage.workers) == 1

    def test_a_lost_worker_costs_no_piece_and_doubles_none(self, bundle: Path) -> None:
        def play(worker: Played, job: Job) -> None:
            first = worker is stage.workers[0]
            for text in ("a", " red") if first else ("a r", "ed", " cat"):
                worker.receive(Piece(job.id, 0, 0, text))
            worker.kill() if first else worker.receive(Done(job.id, ({},), {}, 0.1))

        async def scene(served: WorkerEngine) -> None:
            assert joined(await texts(served, asked_caption(b"1"))) == [b"a red cat"]

        stage = Stage(play)
        run(bundle, stage, scene)

    def test_an_answer_that_turns_out_otherwise_is_not_patched_together(self, bundle: Path) -> None:
        def play(worker: Played, job: Job) -> None:
            worker.receive(Piece(job.id, 0, 0, "a dog" if worker is stage.workers[0] else "a cat"))
            worker.kill()

        async def scene(served: WorkerEngine) -> None:
            with pytest.raises(FailedError, match="taken up again"):
                await texts(served, asked_caption(b"1"))

        stage = Stage(play)
        run(bundle, stage, scene)

    def test_closing_a_stream_stops_the_work(self, bundle: Path) -> None:
        stage = Stage(lambda worker, job: worker.receive(Piece(job.id, 0, 0, "a")))

        async def scene(served: WorkerEngine) -> None:
            stream = served.stream(asked_caption(b"1"))
            assert (await anext(stream)).outputs["text"].tolist() == [b"a"]
            await stream.aclose()  # type: ignore[attr-defined]
            (worker,) = stage.workers
            assert worker.cancelled == [worker.jobs[0].id]
            worker.receive(Done(worker.jobs[0].id, (), {}, 0.1))
            assert served.workers[0].jobs == {}

        run(bundle, stage, scene)

    def test_a_deadline_is_that_of_the_first_piece(self, bundle: Path) -> None:
        def play(worker: Played, job: Job) -> None:
            worker.receive(Piece(job.id, 0, 0, "slow"))
            asyncio.get_running_loop().call_later(0.6, worker.receive, Done(job.id, ({},), {}, 0.6))

        async def scene(served: WorkerEngine) -> None:
            request = asked_caption(b"1", deadline=time.monotonic() + 0.5)
            assert joined(await texts(served, request)) == [b"slow"]

        run(bundle, Stage(play), scene)

    def test_beams_do_not_stream_and_what_does_not_stream_has_one_part(self, bundle: Path) -> None:
        async def scene(served: WorkerEngine) -> None:
            with pytest.raises(BadRequestError, match="beams"):
                await texts(served, asked_caption(b"1", parameters={"num_beams": 2}))
            parts = [part async for part in served.stream(ids([4]))]
            assert [value(part) for part in parts] == [4]
            assert parts[0].final

        run(bundle, Stage(), scene)

    def test_refused_requests_leave_nothing_for_the_garbage_collector(self, bundle: Path) -> None:
        """An error goes through frames that know the work, which knows the error: the body would stay with them."""

        def refuse(worker: Played, job: Job) -> None:
            worker.receive(Done(job.id, (BadRequestError("no picture"),) * len(job.parts), {}, 0.01))

        async def refused(answer: Coroutine[Any, Any, Any], error: type[RefusalError]) -> None:
            try:
                await answer
            except error:
                return
            raise AssertionError("it was answered")

        async def scene(served: WorkerEngine) -> None:
            for _ in range(2):  # the first ones fill caches
                gc.collect()
                stage.play = refuse
                await refused(served.infer(ids([1, 2])), BadRequestError)
                await refused(served.infer(pictures(b"1")), BadRequestError)
                await refused(texts(served, asked_caption(b"1")), BadRequestError)
                stage.play = lambda worker, job: None
                late = time.monotonic() + 0.05
                await refused(served.infer(ids([1, 2], deadline=late)), DeadlineExceededError)
                stage.play = Played.answer
                await asyncio.sleep(0.01)
            assert gc.collect() == 0

        stage = Stage(refuse)
        gc.disable()
        try:
            run(bundle, stage, scene, workers=2)
        finally:
            gc.enable()


def test_what_finds_no_room_is_known_before_it_is_asked(bundle: Path) -> None:
    async def scene(served: WorkerEngine) -> None:
        asked = []
        for _ in range(3):  # one at the worker, two that wait
            served.require_room("text", "greedy")
            asked.append(asyncio.ensure_future(served.infer(ids([1], client="greedy"))))
            await asyncio.sleep(0.02)
        with pytest.raises(OverloadedError, match="2 requests wait"):
            served.require_room("text", "greedy")
        served.require_room("text", "new")  # has its fair part of the queue
        served.require_room("encode_image", "greedy")  # may be known
        for request in asked:
            request.cancel()
        await asyncio.wait(asked)

    run(bundle, Stage(play=lambda worker, job: None), scene, queue=2)


def test_an_answered_request_leaves_nothing_for_the_garbage_collector(bundle: Path) -> None:
    async def scene(served: WorkerEngine) -> None:
        for _ in range(2):  # the first one fills caches
            gc.collect()
            await served.infer(ids([1, 2], deadline=time.monotonic() + 60))
        assert gc.collect() == 0

    gc.disable()
    try:
        run(bundle, Stage(), scene)
    finally:
        gc.enable()
