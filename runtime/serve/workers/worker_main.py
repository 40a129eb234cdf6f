"""The main program of a worker process: it opens a model, then answers jobs from its socket until that closes.

One thread reads messages, so that pictures of the next job are decoded early. The main thread computes: one batch, then
one step of every stream, in turn.
"""

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL
from internvl_edge.runtime.errors import EdgeError
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.serve.refusals import RefusalError
from internvl_edge.runtime.serve.workers.frames import FrameReader, frame
from internvl_edge.runtime.serve.workers.messages import Arrays, Cancel, Done, Job, Opened, OpenFailed, Piece, Setup
from internvl_edge.runtime.serve.workers.model_runner import ModelRunner, Prepared

logger = logging.getLogger(__name__)


def main() -> None:
    """Answer the jobs of the socket whose file descriptor is the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server handles them: it drains first, then closes the socket
    connection = socket.socket(fileno=int(sys.argv[1]))
    messages = _received(connection)
    setup: Setup | None = next(messages, None)
    if setup is None:
        return
    try:
        runner = ModelRunner(_opened(setup), setup.options)
    except EdgeError as error:
        _send(connection, OpenFailed(str(error)))
        return
    gc.freeze()  # the model lives as long as the process, so the garbage collector need not scan it
    _send(connection, Opened())
    jobs = _JobQueue()
    threading.Thread(target=_read, args=(messages, runner, jobs), daemon=True).start()
    with suppress(ConnectionError):  # the server is gone
        _serve(connection, runner, jobs)


def _opened(setup: Setup) -> InternVL:
    """Open the model and all its graphs, so that no job waits for one."""
    model = InternVL.open(
        setup.bundle,
        setup.options.backend,
        verify=False,  # the server has verified the bundle
        batch_size=setup.options.max_batch,
        options=setup.options.session,
    )
    for graph in setup.graphs:
        model.session(graph)
    manifest = model.bundle.manifest
    if "tokenizer.model" in manifest.files:
        _ = model.tokenizer
    if manifest.graph_of(LANGUAGE_MODEL) in setup.graphs:
        _ = model.chat_tokenizer
    return model


class _JobQueue:
    """The queue of jobs that were read and not begun, with the numbers of open jobs that were cancelled."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Prepared] = deque()
        self._open: set[int] = set()
        self._cancelled: set[int] = set()
        self._closed = False

    def add(self, prepared: Prepared) -> None:
        with self._changed:
            self._jobs.append(prepared)
            self._open.add(prepared.job.id)
            self._changed.notify()

    def cancel(self, job: int) -> None:
        with self._changed:
            self._cancelled |= {job} & self._open

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def next(self, *, wait: bool) -> Prepared | None:
        """Return the next job; None when closed, or if there is none and `wait` is false."""
        with self._changed:
            while wait and not (self._jobs or self._closed):
                self._changed.wait()
            return self._jobs.popleft() if self._jobs else None

    def is_cancelled(self, job: int) -> bool:
        with self._changed:
            return job in self._cancelled

    def forget(self, job: int) -> None:
        with self._changed:
            self._open.discard(job)
            self._cancelled.discard(job)


@dataclass(slots=True)
class _Stream:
    """A streamed job under way."""

    prepared: Prepared
    steps: "Generator[Piece | tuple[Arrays | RefusalError, ...], None, None]"
    seconds: float = 0.0


def _read(messages: Iterator[Any], runner: ModelRunner, jobs: _JobQueue) -> None:
    for message in messages:
        if isinstance(message, Job):
            jobs.add(runner.prepare(message))
        elif isinstance(message, Cancel):
            jobs.cancel(message.id)
    jobs.close()


def _serve(connection: socket.socket, runner: ModelRunner, jobs: _JobQueue) -> None:
    streams: list[_Stream] = []
    while (prepared := jobs.next(wait=not streams)) is not None or streams:
        if prepared is not None and jobs.is_cancelled(prepared.job.id):
            _finish(connection, jobs, prepared, (), 0.0)
        elif prepared is not None and prepared.job.stream:
            prepared.cancelled = partial(jobs.is_cancelled, prepared.job.id)
            streams.append(_Stream(prepared, runner.stream(prepared)))
        elif prepared is not None:
            start = time.perf_counter()
            results = runner.answer(prepared)
            _finish(connection, jobs, prepared, results, time.perf_counter() - start)
        streams = [stream for stream in streams if _goes_on(connection, jobs, stream)]


def _goes_on(connection: socket.socket, jobs: _JobQueue, stream: _Stream) -> bool:
    """Compute one step of a stream; return whether there are more."""
    if jobs.is_cancelled(stream.prepared.job.id):
        stream.steps.close()  # frees the memory of its cache
        _finish(connection, jobs, stream.prepared, (), stream.seconds)
        return False
    start = time.perf_counter()
    step = next(stream.steps)
    stream.seconds += time.perf_counter() - start
    if isinstance(step, Piece):
        _send(connection, step)
        return True
    results = () if jobs.is_cancelled(stream.prepared.job.id) else step
    _finish(connection, jobs, stream.prepared, results, stream.seconds)
    return False


def _finish(
    connection: socket.socket,
    jobs: _JobQueue,
    prepared: Prepared,
    results: tuple[Arrays | RefusalError, ...],
    seconds: float,
) -> None:
    stages: dict[str, float] = {}
    for span in prepared.stages.spans:
        stages[span.stage] = stages.get(span.stage, 0.0) + (span.end_ns - span.start_ns) / 1e9
    jobs.forget(prepared.job.id)
    _send(connection, Done(prepared.job.id, results, stages, seconds))


def _received(connection: socket.socket) -> Iterator[Any]:
    """Yield the server's messages until it closes the socket or has ended."""
    reader = FrameReader()
    while True:
        try:
            count = connection.recv_into(reader.space())
        except ConnectionError:
            return
        if not count:
            return
        yield from reader.received(count)


def _send(connection: socket.socket, message: object) -> None:
    for piece in frame(message):
        connection.sendall(piece)


if __name__ == "__main__":
    logging.basicConfig(format=f"worker {os.getpid()}: %(levelname)s %(message)s")
    main()
