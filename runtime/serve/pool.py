"""The engine: it checks and queues requests, joins them to batches, and splits the workers' results again."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from internvl_edge.runtime.bundle.bundle import Bundle, sha256_file
from internvl_edge.runtime.embed.picture_cache import PictureCache, picture_key
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.serve.models import ENCODE_IMAGE, ServedModel, served_models
from internvl_edge.runtime.serve.observer import NullObserver, Observer
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import (
    RETRY_S,
    BadRequestError,
    DeadlineExceededError,
    FailedError,
    RefusalError,
    UnavailableError,
    UnknownModelError,
)
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.scheduling.scheduler import Scheduler
from internvl_edge.runtime.serve.scheduling.ticket import Batch, Slice, Ticket
from internvl_edge.runtime.serve.signature import Signature
from internvl_edge.runtime.serve.validation import validated_request
from internvl_edge.runtime.serve.work import StreamedWork, Work
from internvl_edge.runtime.serve.workers.messages import Done, Job, Piece, Setup
from internvl_edge.runtime.serve.workers.process import Launch, process_launcher
from internvl_edge.runtime.serve.workers.worker import Worker

logger = logging.getLogger(__name__)

_QUEUE = "queue"
"""Name of the stage from when a request was queued until its rows were sent to a worker."""
_DOWN = 2
"""Number of failed starts of a worker in a row after which it no longer counts as able to take requests."""
_HASHED_AT_ONCE = 1 << 20
"""Most bytes of pictures that are hashed on the event loop, which takes about 1 ms; more are hashed in a thread."""


class WorkerEngine:
    """An engine that answers requests with worker processes, on the event loop on which `start` ran."""

    def __init__(
        self,
        bundle: Path,
        options: ServeOptions | None = None,
        observer: Observer | None = None,
        launcher: Callable[[Setup], Launch] = process_launcher,
    ) -> None:
        self.options = options or ServeOptions()
        self._path = bundle
        self._observer = observer or NullObserver()
        self._launcher = launcher
        self._scheduler = Scheduler(self.options)
        self._cache = PictureCache(self.options.cache_bytes)
        self._served: dict[str, ServedModel] = {}
        self._signatures: dict[str, Signature] = {}
        self._workers: list[Worker] = []
        self._open: set[Work] = set()
        self._numbers = count(1)
        self._draining = False
        self._dispatching: asyncio.Handle | None = None
        self._wake: asyncio.TimerHandle | None = None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Return the signature of each served model, by its name."""
        return self._signatures

    @property
    def ready(self) -> bool:
        """Return whether a worker takes requests now."""
        return not self._draining and any(worker.up for worker in self._workers)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Return the supervisors of all workers."""
        return tuple(self._workers)

    async def start(self) -> None:
        """Check the bundle and start the workers; return when all of them take jobs.

        Raises:
            BundleError: The bundle cannot be served.
            BackendError: A worker did not start, for the reason that the error gives.
        """
        bundle = await asyncio.to_thread(Bundle.open, self._path)
        self._info = bundle.manifest.model
        self._digest = sha256_file(self._path / "manifest.json")
        options = self.options
        self._served = served_models(bundle.manifest, options.graphs, options.max_new_tokens, options.max_answer_tokens)
        self._signatures = {name: served.signature for name, served in self._served.items()}
        graphs = tuple(name for name in bundle.manifest.graphs if name in self._served)
        launch = self._launcher(Setup(bundle=self._path, graphs=graphs, options=self.options))
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._workers = [Worker(f"worker {index}", launch, self, self.options) for index in range(self.options.workers)]
        for worker in self._workers:
            worker.start()
        try:
            await self._started
        except BaseException:
            await self._stop()
            raise

    async def close(self, grace_s: float = 30.0) -> None:
        """Refuse new requests, answer the accepted ones for at most `grace_s` seconds, and end the workers."""
        self._draining = True
        end = time.monotonic() + grace_s
        while (unanswered := self._unanswered()) and (left := end - time.monotonic()) > 0:
            await asyncio.wait(unanswered, timeout=left)
        for work in self._open:
            work.fail(UnavailableError("the server stops before this could be answered", RETRY_S))
        await self._stop()

    def require_room(self, model: str, client: str, coming: Mapping[str, int] = MappingProxyType({})) -> bool:
        """Check that the queue has room for a request of this client behind those `coming`; see `Engine`.

        Raises:
            OverloadedError: The queue is full.
        """
        if model == ENCODE_IMAGE:  # the cache may hold the answer
            return False
        self._scheduler.require_room(client, coming)
        return True

    async def infer(self, request: Request) -> Response:
        """Answer a request; cancelling the caller withdraws it from the queue.

        Raises:
            RefusalError: The request gets no answer, for the reason that the error gives.
        """
        try:
            request, served = self._checked(request)
            if request.model == ENCODE_IMAGE and self._cache.capacity_bytes:
                return await self._encoded(request, served)
            return await self._computed(request, served)
        except RefusalError as refusal:
            self._observer.refused(request.model, type(refusal).__name__)
            raise

    async def stream(self, request: Request) -> AsyncIterator[Response]:
        """Yield the answer in parts; closing the iterator stops the work. The deadline is that of the first part.

        Raises:
            RefusalError: There is no answer, or no further part, for the reason that the error gives.
        """
        if request.model in self._served and not self._served[request.model].signature.streams:
            yield await self.infer(request)
            return
        work = None
        try:
            request, served = self._checked(request)
            if request.parameters.get("num_beams", 1) != 1:
                raise BadRequestError(f"{request.model}: beams are known at the end only; stream with num_beams 1")
            work = StreamedWork(request, served)
            self._enqueue(work)
            final = False
            while not final:
                part = await work.next()
                final = part.final
                if final:
                    work.answer.result()
                yield part
        except RefusalError as refusal:
            self._observer.refused(request.model, type(refusal).__name__)
            raise
        finally:
            if work is not None:
                self._release(work)
                work = None  # its error refers to this frame: a cycle that only the garbage collector would free

    def worker_up(self, worker: Worker) -> None:
        """Note that a worker takes jobs now."""
        self._observer.worker(worker.name, True)
        if all(each.up for each in self._workers) and not self._started.done():
            self._started.set_result(None)
        self._dispatch_soon()

    def worker_down(self, worker: Worker, held: list[Batch]) -> None:
        """Queue the requests of a lost worker once more, each alone: only one that ends a worker is lost twice."""
        self._observer.worker(worker.name, False)
        if not self._started.done():
            self._started.set_exception(BackendError(worker.failure))
        for batch in held:
            self._scheduler.lost(batch)
            for part in batch.slices:
                self._retry(part)
        self._dispatch_soon()

    def worker_message(self, worker: Worker, message: Any) -> None:
        """Handle a worker's message about a job."""
        if isinstance(message, Piece):
            part = worker.jobs[message.id].slices[message.part]
            _work(part).piece(part, message.row, message.text)
        elif isinstance(message, Done):
            self._finished(worker, message)

    def _checked(self, request: Request) -> tuple[Request, ServedModel]:
        if self._draining or not any(worker.up or worker.failures < _DOWN for worker in self._workers):
            raise UnavailableError("the server takes no requests now; try again later", RETRY_S)
        served = self._served.get(request.model)
        if served is None:
            raise UnknownModelError(f"there is no model {request.model[:80]!r}; see the list of models")
        return validated_request(request, served, self._info, self.options), served

    async def _encoded(self, request: Request, served: ServedModel) -> Response:
        """Answer an `encode_image` request, with the rows that the cache holds and computed ones for the rest."""
        pictures = list(request.inputs["image"])
        mode = str(served.parameters(request)["mode"])
        keys = await self._keys(pictures, mode)
        rows = {key: self._cache.get(key) for key in keys}
        for key in keys:
            self._observer.cache(rows[key] is not None)
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if rows[key] is None}
        if missing:
            images = np.empty(len(missing), np.object_)
            images[:] = list(missing.values())
            answer = await self._computed(replace(request, inputs={"image": images}), served)
            for key, row in zip(missing, answer.outputs["embedding"], strict=True):
                self._cache.put(key, row)
                rows[key] = row
        return Response(outputs={"embedding": np.stack([row for key in keys if (row := rows[key]) is not None])})

    async def _keys(self, pictures: list[bytes], mode: str) -> list[str]:
        def keys() -> list[str]:
            return [picture_key(content, mode, self._digest) for content in pictures]

        return keys() if sum(map(len, pictures)) <= _HASHED_AT_ONCE else await asyncio.to_thread(keys)

    async def _computed(self, request: Request, served: ServedModel) -> Response:
        work = Work(request, served)
        try:
            self._enqueue(work)
            return await work.answer
        finally:
            self._release(work)
            del work  # its answer may be the error that passes here, which refers to this frame: see `stream`

    def _enqueue(self, work: Work) -> None:
        """Queue a request.

        Raises:
            OverloadedError: The queue is full, or too long for the request's deadline.
            DeadlineExceededError: The deadline has passed.
        """
        now, request = time.monotonic(), work.request
        if request.deadline is not None and request.deadline <= now:
            raise DeadlineExceededError(f"{request.model}: the deadline had passed when the request came")
        in_steps = isinstance(work, StreamedWork) or work.served.signature.answers is not None
        ticket = Ticket(
            key=work.served.key(request, stream=in_steps),
            rows=work.rows,
            client=request.client,
            arrived=now,
            deadline=request.deadline,
            work=work,
        )
        self._scheduler.add(ticket, now)
        work.tickets.append(ticket)
        self._open.add(work)
        self._observer.accepted(request.model)
        self._observer.queued(self._scheduler.depth)
        if request.deadline is not None:
            work.late = asyncio.get_running_loop().call_later(request.deadline - now, _expire, work)
        self._dispatch_soon()

    def _release(self, work: Work) -> None:
        """Withdraw the waiting rows of a request, and cancel the jobs that serve no other open request."""
        work.close()
        if work.late is not None:
            work.late.cancel()
        self._open.discard(work)
        tickets, work.tickets = work.tickets, []  # tickets refer to the work: a cycle for the garbage collector
        if work.complete:
            return
        for ticket in tickets:
            self._scheduler.withdraw(ticket)
        for worker in self._workers:
            for number, batch in worker.jobs.items():
                works = [_work(part) for part in batch.slices]
                if work in works and all(each.closed for each in works):
                    worker.cancel(number)

    def _dispatch_soon(self) -> None:
        """Dispatch batches after all requests of this iteration of the event loop are queued."""
        if self._dispatching is None:
            self._dispatching = asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send workers the batches that may leave, and set a timer for those that are held back."""
        self._dispatching = None
        now = time.monotonic()
        up = [worker for worker in self._workers if worker.up]
        while any(self._dispatch_to(worker, now) for worker in sorted(up, key=lambda each: len(each.jobs))):
            pass  # one batch at a time, to the worker with the fewest jobs
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        idle = [worker.load.idle_since for worker in up if not worker.load.batches]
        wake = self._scheduler.wake_at(min(idle)) if idle else None
        if wake is not None and wake > now:
            self._wake = asyncio.get_running_loop().call_later(wake - now, self._dispatch_soon)

    def _dispatch_to(self, worker: Worker, now: float) -> bool:
        """Send a worker one batch; return False if there is none for it."""
        batch = self._scheduler.take(now, worker.load)
        if batch is None:
            return False
        first = _work(batch.slices[0])
        job = Job(
            id=next(self._numbers),
            model=batch.key.model,
            parts=tuple(_work(part).served.part(_work(part).request, part.start, part.stop) for part in batch.slices),
            shared=first.served.shared(first.request),
            parameters=first.served.parameters(first.request),
            outputs=first.request.outputs,
            stream=batch.key.stream,
        )
        worker.give(job, batch, now)
        self._observer.batch(batch.key.model, batch.rows)
        for part in batch.slices:
            waited = now - part.ticket.arrived
            self._observer.stage(batch.key.model, _QUEUE, waited, (_work(part).request.trace,))
        self._observer.queued(self._scheduler.depth)
        return True

    def _finished(self, worker: Worker, done: Done) -> None:
        now = time.monotonic()
        batch, seconds = worker.finish(done.id, now)
        if done.results:
            self._scheduler.done(batch, now, done.seconds if batch.key.stream else seconds)
        else:  # it was cancelled
            self._scheduler.lost(batch)
        for part, result in zip(batch.slices, done.results, strict=False):
            if isinstance(result, RefusalError):
                _work(part).fail(result)
            else:
                _work(part).take(part, result)
        traces = tuple(_work(part).request.trace for part in batch.slices)
        for stage, seconds in done.stages.items():
            self._observer.stage(batch.key.model, stage, seconds, traces)
        self._dispatch_soon()

    def _retry(self, part: Slice) -> None:
        work, ticket = _work(part), part.ticket
        if work.closed:
            return
        if ticket.crashes:
            work.fail(FailedError(f"{work.request.model}: two workers were lost while they held this request"))
            return
        work.lost(part)
        again = Ticket(
            key=ticket.key,
            rows=part.stop,
            client=ticket.client,
            arrived=ticket.arrived,
            deadline=ticket.deadline,
            first_waiting=part.start,
            crashes=1,
            work=work,
        )
        work.tickets.append(again)
        self._scheduler.retry(again)

    def _unanswered(self) -> list[asyncio.Future[Response]]:
        return [work.answer for work in self._open if not work.answer.done()]

    async def _stop(self) -> None:
        for handle in (self._wake, self._dispatching):
            if handle is not None:
                handle.cancel()
        await asyncio.gather(*(worker.stop() for worker in self._workers))


def _work(part: Slice) -> Work:
    work = part.ticket.work
    assert isinstance(work, Work)
    return work


def _expire(work: Work) -> None:
    if isinstance(work, StreamedWork) and work.begun:
        return
    what = "not begun" if any(ticket.waiting for ticket in work.tickets) else "not answered"
    option = "--deadline-ms" if work.served.signature.answers is None else "--answer-deadline-s"
    remedy = f"give it more time with the parameter timeout or {option}"
    work.fail(DeadlineExceededError(f"{work.request.model}: {what} before its deadline; {remedy}"))
