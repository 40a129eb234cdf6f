"""Dynamic batching inside a process: single requests of many threads are computed together."""

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
    """The queue is full; try again later."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[_Item, _Result]):
    item: _Item
    since: float
    future: "Future[_Result]"


class MicroBatcher(Generic[_Item, _Result]):
    """A queue that joins the items of many threads to batches and passes these to `run`, oldest first, one by one.

    If `run` fails, each item of the batch is run alone, so that a bad item does not fail the others. `close`, or the
    end of a `with` block, waits for all results.

    Args:
        run: Function that gets a list of items and returns as many results in the same order, such as
            `InternVL.encode_image`. It is called in the batcher's own thread.
        max_batch: Largest number of items in a batch; a full batch is run at once.
        max_delay_ms: Longest time that the oldest item waits for further items, if `run` is not busy.
        queue: Largest number of items that may wait.

    Raises:
        InputError: `max_batch` or `queue` is below 1, or the delay is negative.
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
        """Return the future result of `item`; cancelling it withdraws an item that still waits.

        Raises:
            QueueFullError: The queue is full.
            BackendError: The batcher is closed.
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
        """Refuse further items, run those that wait without delay, and return when they are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:  # `run` itself may close
            self._thread.join()

    def __enter__(self) -> "MicroBatcher[_Item, _Result]":
        """Return the batcher."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the batcher."""
        self.close()

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._answer(batch)

    def _next_batch(self) -> list[_Waiting[_Item, _Result]] | None:
        """Wait until a batch may be run, and return it; None when the batcher is closed and empty."""
        with self._changed:
            while (seconds := self._seconds_left()) is None or seconds > 0:
                self._changed.wait(seconds)
            if not self._waiting:
                return None
            leaving = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        return [waiting for waiting in leaving if waiting.future.set_running_or_notify_cancel()]

    def _seconds_left(self) -> float | None:
        """Return the seconds until the next batch may be run; None: until the next item is submitted."""
        self._drop_cancelled()
        if self._closed or len(self._waiting) >= self._max_batch:
            return 0.0
        if not self._waiting:
            return None
        return self._waiting[0].since + self._max_delay - time.monotonic()

    def _drop_cancelled(self) -> None:
        """Remove cancelled items; `set_running_or_notify_cancel` wakes threads in `concurrent.futures.wait`."""
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
        except BaseException as error:  # raised again in the threads that wait for the results
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for waiting in batch:
                self._answer([waiting])
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result(result)
