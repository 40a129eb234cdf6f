"""A worker in this process, spoken to over its socket: what it opens, answers, cancels and ends with."""

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.workers import worker_main
from internvl_edge.runtime.serve.workers.frames import FrameReader, frame
from internvl_edge.runtime.serve.workers.messages import Cancel, Done, Job, Opened, OpenFailed, Piece, Setup
from internvl_edge.runtime.stages import COMPUTE, Stages
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.onnx_bundle import write_onnx_bundle


class Server:
    """The server's end of a worker that runs in a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(HANG_S)
        monkeypatch.setattr(sys, "argv", ["worker", str(self.theirs.fileno())])
        monkeypatch.setattr(worker_main, "socket", SimpleNamespace(socket=lambda fileno: self.theirs))
        monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # only the main thread may
        monkeypatch.setattr(worker_main.gc, "freeze", lambda: None)
        self.thread = threading.Thread(target=worker_main.main)
        self.thread.start()
        self._messages = self._received()

    def send(self, *messages: object) -> None:
        for message in messages:
            for piece in frame(message):
                self.ours.sendall(piece)

    def next(self) -> Any:
        return next(self._messages)

    def close(self) -> None:
        self.ours.close()
        self.thread.join(HANG_S)
        assert not self.thread.is_alive()
        self.theirs.close()

    def _received(self) -> Iterator[Any]:
        reader = FrameReader()
        while count := self.ours.recv_into(reader.space()):
            yield from reader.received(count)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(monkeypatch)
    yield made
    made.close()


def setup(folder: Path, *graphs: str) -> Setup:
    return Setup(bundle=folder, graphs=graphs or ("text",), options=ServeOptions(backend="onnxruntime", threads=1))


def job(number: int, ids: list[list[int]], stream: bool = False) -> Job:
    return Job(
        id=number,
        model="text",
        parts=({"input_ids": np.array(ids)},),
        shared={},
        parameters={},
        outputs=None,
        stream=stream,
    )


def test_jobs_are_answered_in_order_until_the_socket_closes(server: Server, tmp_path: Path) -> None:
    server.send(setup(write_onnx_bundle(tmp_path / "b")))
    assert server.next() == Opened()
    server.send(job(1, [[1, 2]]), job(2, [[3, 4], [5, 6]]))
    first, second = server.next(), server.next()
    assert (first.id, second.id) == (1, 2)
    assert first.results[0]["text_embeds"].tolist() == [[3]]
    assert second.results[0]["text_embeds"].tolist() == [[7], [11]]
    assert first.stages[COMPUTE] > 0
    assert first.seconds >= first.stages[COMPUTE]


def test_a_bundle_that_cannot_be_opened_is_the_only_message(server: Server, tmp_path: Path) -> None:
    server.send(setup(tmp_path / "gone"))
    failed = server.next()
    assert isinstance(failed, OpenFailed)
    assert "gone" in failed.reason
    server.thread.join(HANG_S)
    assert not server.thread.is_alive()


def test_a_graph_that_is_not_there_is_reported_before_any_job(server: Server, tmp_path: Path) -> None:
    server.send(setup(write_onnx_bundle(tmp_path / "b"), "text", "decoder"))
    failed = server.next()
    assert isinstance(failed, OpenFailed)
    assert "decoder" in failed.reason


def test_a_server_that_is_gone_at_once_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch).close()


class Runner:
    """Streams three pieces of each job; answers others with their number."""

    def __init__(self, model: object, options: ServeOptions) -> None:
        self.gate = threading.Event()

    def prepare(self, asked: Job) -> Any:
        return SimpleNamespace(job=asked, stages=Stages())

    def answer(self, prepared: Any) -> tuple[Any, ...]:
        return (BadRequestError(f"job {prepared.job.id}"),)

    def stream(self, prepared: Any) -> Iterator[Any]:
        for index in range(3):
            yield Piece(prepared.job.id, 0, 0, str(index))
        yield ({"text": np.array([1])},)


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(worker_main, "ModelRunner", Runner)
    made = Server(monkeypatch)
    made.send(setup(write_onnx_bundle(tmp_path / "b")))
    assert made.next() == Opened()
    yield made
    made.close()


def test_streams_take_turns_and_end_with_their_result(streaming: Server) -> None:
    streaming.send(job(1, [[1]], stream=True))
    messages = [streaming.next() for _ in range(4)]
    assert [(m.id, m.text) for m in messages[:3]] == [(1, "0"), (1, "1"), (1, "2")]
    assert isinstance(messages[3], Done)
    assert messages[3].results[0]["text"].tolist() == [1]


def test_a_refusal_is_a_result(streaming: Server) -> None:
    streaming.send(job(7, [[1]]))
    done = streaming.next()
    assert isinstance(done.results[0], BadRequestError)
    assert str(done.results[0]) == "job 7"


def test_a_cancelled_job_is_done_without_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Held(Runner):
        """Holds the first step of job 1, so that what is sent meanwhile is read before it goes on."""

        def stream(self, prepared: Any) -> Iterator[Any]:
            for piece in super().stream(prepared):
                begun.set()
                assert go_on.wait(HANG_S)
                yield piece

    monkeypatch.setattr(worker_main, "ModelRunner", Held)
    read: list[int] = []
    cancel = worker_main._JobQueue.cancel

    def recorded(jobs: Any, number: int) -> None:
        cancel(jobs, number)
        read.append(number)
        if len(read) == 3:
            go_on.set()

    monkeypatch.setattr(worker_main._JobQueue, "cancel", recorded)
    server = Server(monkeypatch)
    server.send(setup(write_onnx_bundle(tmp_path / "b")))
    assert server.next() == Opened()
    server.send(job(1, [[1]], stream=True))
    assert begun.wait(HANG_S)
    server.send(job(2, [[1]]), Cancel(9), Cancel(2), Cancel(1))
    assert server.next() == Piece(1, 0, 0, "0"), "the step that was under way"
    done = [server.next(), server.next()]
    assert sorted((each.id, each.results) for each in done) == [(1, ()), (2, ())]
    server.close()


def test_an_answer_that_ends_because_nobody_waits_has_no_result_and_frees_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    closed: list[int] = []

    class Asking(Runner):
        """Job 1 asks between its tokens whether somebody waits; job 2 goes on for ever."""

        def stream(self, prepared: Any) -> Iterator[Any]:
            try:
                begun.set()
                while not (prepared.job.id == 1 and prepared.cancelled()):
                    assert go_on.wait(HANG_S)
                    if prepared.job.id == 2:
                        yield Piece(2, 0, 0, "a")
                yield ({"text": np.array([1])},)
            finally:
                closed.append(prepared.job.id)

    monkeypatch.setattr(worker_main, "ModelRunner", Asking)
    server = Server(monkeypatch)
    server.send(setup(write_onnx_bundle(tmp_path / "b")))
    assert server.next() == Opened()
    server.send(job(1, [[1]], stream=True))
    assert begun.wait(HANG_S)
    server.send(Cancel(1))
    go_on.set()
    done = server.next()
    assert (done.id, done.results) == (1, ())
    server.send(job(2, [[1]], stream=True))
    assert server.next() == Piece(2, 0, 0, "a")
    server.send(Cancel(2))
    while isinstance(message := server.next(), Piece):
        pass
    assert (message.id, message.results, closed) == (2, (), [1, 2])
    server.close()
