"""Choice of the next batch: continuous batching with a bounded delay, a bounded queue and fairness between clients.

A free worker takes the requests that wait; while it works, the next batch collects. When clients send their next
request as soon as they are answered, that rule alone may settle on small and large batches in alternation. So a free
worker waits if fewer requests are queued than its part of all open ones, but only while the clients that were just
answered may send again: never after it was idle, and never longer than `max_delay_ms`. A full batch is sent ahead to
a worker that is still busy, so that the worker need not wait for it.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import OverloadedError, TooLargeError
from internvl_edge.runtime.serve.scheduling.cost import BatchCost
from internvl_edge.runtime.serve.scheduling.fair_queue import FairQueue
from internvl_edge.runtime.serve.scheduling.ticket import Batch, Key, Ticket

_AHEAD = 2
"""Most batches that a worker holds: the one that it computes and the next."""
_STREAMS = 4
"""Most streamed batches that a worker computes concurrently. One of a key that no other request may join is computed
without other streams: an answer of a chat model, whose cache and speed are the worker's."""
_LINES = 256
"""Number of batching keys above which those without open requests are dropped."""
_SURE = 0.75
"""Largest part of the time to a request's deadline that it may be expected to take, since durations of batches vary."""
_RETRY_S = 0.1
"""Shortest time after which a refused client should retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The jobs that a worker holds."""

    batches: int = 0
    streams: int = 0
    retrying: bool = False
    """Whether it computes a request that may have ended a worker before: no other request is sent with it."""
    idle_since: float = -math.inf


@dataclass(slots=True)
class _Line:
    """Waiting and dispatched requests of one batching key."""

    queue: FairQueue = field(default_factory=FairQueue)
    flying: int = 0
    """Number of requests at workers."""
    flying_rows: int = 0
    """Number of rows at workers."""
    crowd: int = 1
    """Number of requests that were open when the last batch was dispatched."""
    answered: float = -math.inf
    """Time at which the last batch came back."""
    cost: BatchCost = field(default_factory=BatchCost)
    """Cost of batches of this key alone: labels and parameters change the cost of a row."""

    @property
    def idle(self) -> bool:
        return not (self.queue.rows or self.flying)


class Scheduler:
    """The queue of all models."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._lines: dict[Key, _Line] = {}
        self._retries: deque[Ticket] = deque()
        self._waiting: dict[str, int] = {}
        """Client -> number of its requests with waiting rows."""
        self._rows: dict[str, int] = {}
        """Client -> number of its waiting rows."""
        self._turn = 0
        self._served: dict[str, int] = {}
        """Waiting client -> number of the last batch with rows of it."""
        self._costs: dict[tuple[str, bool], BatchCost] = {}

    @property
    def depth(self) -> int:
        """Return the number of requests that wait."""
        return sum(self._waiting.values())

    def add(self, ticket: Ticket, now: float) -> None:
        """Queue a request.

        Raises:
            OverloadedError: The queue is full, or so long that the request would miss its deadline.
            TooLargeError: The request alone takes longer than the time to its deadline.
        """
        self.require_room(ticket.client)
        self._require_time(ticket, now)
        self._line(ticket.key).queue.add(ticket)
        self._enter(ticket)

    def require_room(self, client: str, coming: Mapping[str, int] = MappingProxyType({})) -> None:
        """Check that the queue has room for a request of this client behind those `coming`.

        A client may still use its fair part of a queue that others have filled; twice the limit is never exceeded.

        Raises:
            OverloadedError: The queue is full.
        """
        depth, queue = self.depth + sum(coming.values()), self._options.queue
        clients = len({*self._waiting, *coming, client})
        own = self._waiting.get(client, 0) + coming.get(client, 0)
        if depth < queue or (own < queue // clients and depth < 2 * queue):
            return
        raise OverloadedError(f"the queue is full: {depth} requests wait; try again later", self._retry_after())

    def retry(self, ticket: Ticket) -> None:
        """Queue rows that were lost with a worker: before all others, and in a batch of their own."""
        self._retries.append(ticket)
        self._enter(ticket)

    def withdraw(self, ticket: Ticket) -> None:
        """Remove the waiting rows of a request."""
        if not ticket.waiting:
            return
        if ticket in self._retries:
            self._retries.remove(ticket)
        else:
            self._lines[ticket.key].queue.remove(ticket)
        rows, ticket.first_waiting = ticket.waiting, ticket.rows
        self._leave(ticket, rows)

    def take(self, now: float, load: Load) -> Batch | None:
        """Return the next batch for a worker, or None if none may leave yet; overdue requests are dropped."""
        if load.retrying:
            return None
        self._drop_overdue(now)
        if self._retries:
            idle = not (load.batches or load.streams)
            return self._leaving(self._next_retry()) if idle else None
        ready = [(key, line) for key, line in self._queued() if self._may_leave(key, line, now, load)]
        if not ready:
            return None
        key, line = min(ready, key=lambda item: self._rank(item[1]))
        return self._leaving(Batch(key, line.queue.take(self._options.max_batch)))

    def wake_at(self, idle_since: float) -> float | None:
        """Return when an idle worker may take the rows that are held back from it; None if there are none."""
        held = (self._held_until(key, line, idle_since) for key, line in self._queued() if not key.stream)
        return min(held, default=None)

    def done(self, batch: Batch, now: float, seconds: float) -> None:
        """Note that a batch came back, which kept a worker busy for `seconds`."""
        self._landed(batch)
        line = self._lines[batch.key]
        line.answered = now
        line.cost.learn(batch.rows, seconds)
        self._costs.setdefault((batch.key.model, batch.key.stream), BatchCost()).learn(batch.rows, seconds)

    def lost(self, batch: Batch) -> None:
        """Note that the results of a batch will not come."""
        self._landed(batch)

    def backlog_s(self) -> float:
        """Return the expected seconds of all waiting and dispatched rows."""
        work = sum(
            self._cost(key).of_many(line.queue.rows + line.flying_rows, self._options.max_batch)
            for key, line in self._lines.items()
            if not line.idle
        )
        return work / self._options.workers

    def _require_time(self, ticket: Ticket, now: float) -> None:
        """Refuse a request that would miss its deadline; with no other work to be done, it is tried."""
        if ticket.deadline is None:
            return
        self._require_time_alone(ticket, ticket.deadline - now)
        if (backlog := self.backlog_s()) == 0:
            return
        cost, size = self._cost(ticket.key), self._options.max_batch
        turns = (self._rows.get(ticket.client, 0) + ticket.waiting) * len({*self._waiting, ticket.client})
        behind_all = backlog + cost.of_many(ticket.waiting, size)
        in_turn = cost.of_many(turns, size) / self._options.workers + cost.of(size)
        late = min(behind_all, in_turn) - _SURE * (ticket.deadline - now)
        if late > 0:
            raise OverloadedError(
                f"{self.depth} requests wait, too many for this one's deadline; try again later", max(late, _RETRY_S)
            )

    def _require_time_alone(self, ticket: Ticket, left_s: float) -> None:
        """Refuse a request of several batches that alone takes longer than the time to its deadline.

        A request of a single batch, or of a key without observed batches, is tried: its duration improves the estimate.
        """
        size = self._options.max_batch
        alone_s = self._line(ticket.key).cost.of_many(ticket.waiting, size) / self._options.workers
        if ticket.waiting > size and alone_s > left_s:
            raise TooLargeError(
                f"{ticket.key.model}: {ticket.waiting} rows take about {alone_s:.2g} s and have {left_s:.2g} s to their"
                " deadline; send fewer at once, or give them more time with the parameter timeout or --deadline-ms"
            )

    def _retry_after(self) -> float:
        return max(self.backlog_s(), _RETRY_S)

    def _queued(self) -> Iterator[tuple[Key, _Line]]:
        return ((key, line) for key, line in self._lines.items() if line.queue.rows)

    def _may_leave(self, key: Key, line: _Line, now: float, load: Load) -> bool:
        if key.stream:
            return load.streams < (1 if key.alone else _STREAMS)
        if load.batches:
            return load.batches < _AHEAD and self._is_full(key, line)
        return now >= self._held_until(key, line, load.idle_since)

    def _is_full(self, key: Key, line: _Line) -> bool:
        return bool(key.alone) or line.queue.rows >= self._options.max_batch

    def _held_until(self, key: Key, line: _Line, idle_since: float) -> float:
        """Return until when an idle worker waits for more requests: -inf if enough wait or none are expected."""
        part = math.ceil(line.crowd / (self._options.workers + 1))  # one part for each worker, and one that collects
        if self._is_full(key, line) or line.queue.tickets >= part:
            return -math.inf
        delay = self._options.max_delay_ms / 1e3
        return min(line.answered, max(line.queue.oldest, idle_since)) + delay

    def _rank(self, line: _Line) -> tuple[int, float]:
        """Return the sort key of a line: first the client that was served least recently, then the oldest request."""
        return min(self._served.get(client, 0) for client in line.queue.clients), line.queue.oldest

    def _next_retry(self) -> Batch:
        ticket = self._retries.popleft()
        return Batch(ticket.key, (ticket.take(ticket.waiting),))

    def _leaving(self, batch: Batch) -> Batch:
        """Count a batch as dispatched."""
        self._turn += 1
        for part in batch.slices:
            self._served[part.ticket.client] = self._turn
            self._leave(part.ticket, part.stop - part.start)
        line = self._line(batch.key)
        line.flying += len(batch.slices)
        line.flying_rows += batch.rows
        line.crowd = line.flying + line.queue.tickets
        return batch

    def _landed(self, batch: Batch) -> None:
        line = self._lines[batch.key]
        line.flying -= len(batch.slices)
        line.flying_rows -= batch.rows

    def _line(self, key: Key) -> _Line:
        if key not in self._lines and len(self._lines) >= _LINES:
            self._lines = {kept: line for kept, line in self._lines.items() if not line.idle}
        return self._lines.setdefault(key, _Line())

    def _enter(self, ticket: Ticket) -> None:
        """Count a request that waits."""
        self._waiting[ticket.client] = self._waiting.get(ticket.client, 0) + 1
        self._rows[ticket.client] = self._rows.get(ticket.client, 0) + ticket.waiting

    def _leave(self, ticket: Ticket, rows: int) -> None:
        """Count rows that no longer wait; a client without any is dropped, so that its next request is served first."""
        client = ticket.client
        self._rows[client] -= rows
        if not ticket.waiting:
            self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client], self._rows[client]
            self._served.pop(client, None)

    def _drop_overdue(self, now: float) -> None:
        overdue = [ticket for ticket in self._retries if ticket.deadline is not None and ticket.deadline <= now]
        for _, line in self._queued():
            overdue += line.queue.overdue(now)
        for ticket in overdue:
            self.withdraw(ticket)

    def _cost(self, key: Key) -> BatchCost:
        return self._costs.get((key.model, key.stream)) or BatchCost()
