"""Dynamic batching inside a process: single requests of many threads go through the graph together."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from internvl_edge.runtime.errors import BackendError, InputError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class QueueFullError(BackendError):
    """More requests wait than the queue may hold; ask again later."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[_Item, _Result]):
    item: _Item
    since: float
    future: "Future[_Result]"


class MicroBatcher(Generic[_Item, _Result]):
    """Gathers what threads submit and hands it to `run`, oldest first, one batch after the other.

    `run` gets a list of items and returns as many results in the same order: `InternVL.encode_image`, for one. Where it
    raises, each item of the batch is run alone, so that one that fails does not fail its neighbours. `with` or `close`
    waits for the answers that are still open.

    Args:
        run: Computes one batch, in the batcher's own thread.
        max_batch: Requests that go together at most; as many waiting leave at once.
        max_delay_ms: How long the oldest request waits for company. What is overdue when `run` returns leaves at once.
        queue: Requests that may wait; one more is refused.

    Raises:
        InputError: a batch or queue of no request, or a negative delay.
    """

    def __init__(
        self,
        run: Callable[[list[_Item]], Collection[_Result]],
        *,
        max_batch: int = 8,
        max_delay_ms: float = 5.0,
        queue: int = 1024,
    ) -> None:
        if max_batch < 1 or queue < 1 or not max_delay_ms >= 0:
            raise InputError(
                f"micro batches: max_batch {max_batch}, max_delay_ms {max_delay_ms}, queue {queue};"
                " give 1 or more, 0 or more, 1 or more"
            )
        self._run = run
        self._max_batch = max_batch
        self._max_delay = max_delay_ms / 1e3
        self._queue = queue
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting[_Item, _Result]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="micro batches", daemon=True)
        self._thread.start()

    def submit(self, item: _Item) -> "Future[_Result]":
        """Return the future result of `item`; cancelling it takes the request back while it waits.

        Raises:
            QueueFullError: as many requests wait as may.
            BackendError: the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise BackendError("micro batches: closed; open another")
            if len(self._waiting) >= self._queue:
                self._drop_cancelled()
            if len(self._waiting) >= self._queue:
                raise QueueFullError(f"micro batches: {len(self._waiting)} requests wait already; ask again later")
            future: Future[_Result] = Future()
            self._waiting.append(_Waiting(item, time.monotonic(), future))
            self._changed.notify_all()
        return future

    def close(self) -> None:
        """Take nothing more, run all that waits without further delay, and return when it is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:  # `run` itself may close
            self._thread.join()

    def __enter__(self) -> "MicroBatcher[_Item, _Result]":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._answer(batch)

    def _next_batch(self) -> list[_Waiting[_Item, _Result]] | None:
        """Wait until a batch may leave, and return it; None when closed and done."""
        with self._changed:
            while (seconds := self._seconds_left()) is None or seconds > 0:
                self._changed.wait(seconds)
            if not self._waiting:
                return None
            leaving = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        return [waiting for waiting in leaving if waiting.future.set_running_or_notify_cancel()]

    def _seconds_left(self) -> float | None:
        """Return how long to wait if nothing comes; None: until something comes."""
        self._drop_cancelled()
        if self._closed or len(self._waiting) >= self._max_batch:
            return 0.0
        if not self._waiting:
            return None
        return self._waiting[0].since + self._max_delay - time.monotonic()

    def _drop_cancelled(self) -> None:
        """Make room; `notify_cancel` wakes those who wait for several futures."""
        for _ in range(len(self._waiting)):
            waiting = self._waiting.popleft()
            if waiting.future.cancelled():
                waiting.future.set_running_or_notify_cancel()
            else:
                self._waiting.append(waiting)

    def _answer(self, batch: list[_Waiting[_Item, _Result]]) -> None:
        try:
            results = self._run([waiting.item for waiting in batch]) if batch else []
            if len(results) != len(batch):
                raise BackendError(f"micro batches: {len(results)} results of {len(batch)} items; return one for each")
        except BaseException as error:  # belongs to those who wait for it
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for waiting in batch:
                self._answer([waiting])
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result(result)
