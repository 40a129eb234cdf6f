"""Twice as much as can be done, in simulated time: what is taken up is answered in time, at nearly the full rate."""

import heapq

import numpy as np
import pytest

from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import OverloadedError
from internvl_edge.runtime.serve.scheduling.scheduler import Load, Scheduler
from internvl_edge.runtime.serve.scheduling.ticket import Batch, Key, Ticket

DEADLINE_S = 0.5
MAX_BATCH = 16
SECONDS = 20.0
START_S, EACH_S = 0.005, 0.003
"""Seconds of a batch, and of each of its rows: 302 rows a second at best."""
CAPACITY = MAX_BATCH / (START_S + MAX_BATCH * EACH_S)


def simulate(load: float, noise: float, rng: np.random.Generator) -> tuple[int, int, int]:
    """Return how many requests were answered in time, answered late or dropped, and refused when they came."""
    queue = Scheduler(ServeOptions(max_batch=MAX_BATCH))
    arrivals = np.cumsum(rng.exponential(1 / (load * CAPACITY), int(load * CAPACITY * SECONDS)))
    pending = [(float(at), index) for index, at in enumerate(arrivals)]
    heapq.heapify(pending)
    running: list[Batch] = []
    free_at, accepted, in_time, refused, number = 0.0, 0, 0, 0, len(pending)
    finishing: dict[int, tuple[Batch, float]] = {}
    while pending:
        now, event = heapq.heappop(pending)
        if event in finishing:
            batch, seconds = finishing.pop(event)
            running.remove(batch)
            queue.done(batch, now, seconds)
            in_time += sum(part.ticket.deadline is not None and now <= part.ticket.deadline for part in batch.slices)
        elif event >= 0:
            ticket = Ticket(
                key=Key("text", 0), rows=1, client=str(event % 5), arrived=now, deadline=now + DEADLINE_S, work=event
            )
            try:
                queue.add(ticket, now)
                accepted += 1
            except OverloadedError:
                refused += 1
        while batch_or_none := queue.take(now, Load(batches=len(running), idle_since=free_at)):
            seconds = (START_S + batch_or_none.rows * EACH_S) * float(rng.uniform(1 - noise, 1 + noise))
            free_at = max(free_at, now) + seconds
            running.append(batch_or_none)
            finishing[number] = (batch_or_none, seconds)
            heapq.heappush(pending, (free_at, number))
            number += 1
        wake = None if running else queue.wake_at(free_at)
        if wake is not None and wake > now:
            heapq.heappush(pending, (wake + 1e-9, -1))
    return in_time, accepted - in_time, refused


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_twice_the_capacity_is_answered_at_nearly_the_full_rate(noise: float, rng: np.random.Generator) -> None:
    in_time, late, refused = simulate(2.0, noise, rng)
    assert in_time > 0.9 * CAPACITY * SECONDS
    assert late < 0.02 * in_time
    assert refused > 0.4 * 2 * CAPACITY * SECONDS


def test_below_the_capacity_nothing_is_refused_and_nothing_late(rng: np.random.Generator) -> None:
    in_time, late, refused = simulate(0.6, 0.3, rng)
    assert (late, refused) == (0, 0)
    assert in_time > 0
