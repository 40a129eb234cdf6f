"""Whatever comes, goes, is withdrawn or lost: every row leaves exactly once, and nobody is starved."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import OverloadedError
from internvl_edge.runtime.serve.scheduling.scheduler import Load, Scheduler
from internvl_edge.runtime.serve.scheduling.ticket import Batch, Key, Slice, Ticket

KEYS = [Key("encode_text", 0), Key("encode_text", 1), Key("encode_image", "c"), Key("caption", 0, stream=True)]

arrivals = st.tuples(st.just("add"), st.integers(0, 3), st.integers(1, 12), st.integers(0, len(KEYS) - 1))
steps = st.lists(
    st.one_of(arrivals, arrivals, st.sampled_from([("take",), ("done",), ("lost",), ("withdraw",), ("sleep",)])),
    max_size=80,
)


class World:
    """A scheduler, one worker, and what became of every row."""

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch
        self.queue = Scheduler(ServeOptions(max_batch=max_batch, queue=6))
        self.now = 0.0
        self.tickets: list[Ticket] = []
        self.flying: list[Batch] = []
        self.rows: Counter[tuple[int, int]] = Counter()
        self.withdrawn: set[int] = set()

    @property
    def load(self) -> Load:
        streams = sum(batch.key.stream for batch in self.flying)
        retrying = any(part.ticket.crashes for batch in self.flying for part in batch.slices)
        return Load(batches=len(self.flying) - streams, streams=streams, retrying=retrying, idle_since=self.now)

    def add(self, client: int, rows: int, key: int) -> None:
        each = Ticket(key=KEYS[key], rows=rows, client=str(client), arrived=self.now, work=len(self.tickets))
        try:
            self.queue.add(each, self.now)
        except OverloadedError:
            return
        self.tickets.append(each)

    def take(self) -> None:
        if (batch := self.queue.take(self.now, self.load)) is None:
            return
        retried = [part for part in batch.slices if part.ticket.crashes]
        assert batch.rows <= self.max_batch
        assert not retried or len(batch.slices) == 1
        assert all(part.ticket.key == batch.key for part in batch.slices)
        self.flying.append(batch)

    def done(self) -> None:
        if self.flying:
            batch = self.flying.pop(0)
            self.queue.done(batch, self.now, 0.01 * batch.rows)
            for part in batch.slices:
                self.rows.update((_number(part), row) for row in range(part.start, part.stop))

    def lost(self) -> None:
        for batch in self.flying:
            self.queue.lost(batch)
            for part in batch.slices:
                self.queue.retry(
                    Ticket(
                        key=batch.key,
                        rows=part.stop,
                        client=part.ticket.client,
                        arrived=part.ticket.arrived,
                        first_waiting=part.start,
                        crashes=1,
                        work=part.ticket.work,
                    )
                )
        self.flying = []

    def withdraw(self) -> None:
        waiting = [each for each in self.tickets if each.waiting]
        if waiting:
            self.withdrawn.add(self.tickets.index(waiting[0]))
            self.queue.withdraw(waiting[0])

    def sleep(self) -> None:
        self.now += 0.001


def _number(part: Slice) -> int:
    assert isinstance(part.ticket.work, int)
    return part.ticket.work


@given(steps, st.integers(1, 8))
@settings(max_examples=150)
def test_every_row_that_was_taken_up_leaves_exactly_once(moves: list[tuple[str, ...]], max_batch: int) -> None:
    world = World(max_batch)
    for name, *given_values in moves:
        getattr(world, name)(*given_values)
    for _ in range(2000):
        if not (world.queue.depth or world.flying):
            break
        world.now += 1.0
        world.take()
        world.done()
    assert world.queue.depth == 0
    assert world.queue.backlog_s() == 0
    assert max(world.rows.values(), default=1) == 1
    for number, each in enumerate(world.tickets):
        if number not in world.withdrawn:
            assert all(world.rows[number, row] for row in range(each.rows)), "a row was lost"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 8))
def test_of_two_clients_that_always_wait_none_gets_more_than_a_row_more(greedy: list[int], max_batch: int) -> None:
    queue = Scheduler(ServeOptions(max_batch=max_batch, queue=64))
    for rows in greedy:
        queue.add(Ticket(key=KEYS[0], rows=rows, client="greedy", arrived=0.0), 0.0)
    queue.add(Ticket(key=KEYS[0], rows=sum(greedy), client="modest", arrived=1.0), 1.0)
    while batch := queue.take(2.0, Load()):
        served = Counter[str]()
        for part in batch.slices:
            served[part.ticket.client] += part.stop - part.start
        assert abs(served["greedy"] - served["modest"]) <= 1


@settings(max_examples=60, deadline=None)
@given(waiting=st.lists(st.sampled_from("abc"), max_size=10), asking=st.lists(st.sampled_from("abcd"), max_size=16))
def test_those_that_are_coming_count_as_those_that_wait(waiting: list[str], asking: list[str]) -> None:
    """Requests of one loop iteration are admitted before any is queued: as many as if each were queued at once."""

    def full(queue: Scheduler, client: str, coming: Counter[str]) -> bool:
        try:
            queue.require_room(client, coming)
        except OverloadedError:
            return True
        return False

    def add(queue: Scheduler, client: str) -> None:
        queue.add(Ticket(key=KEYS[0], rows=1, client=client, arrived=0.0, work=None), 0.0)

    at_once, in_a_turn, coming = Scheduler(ServeOptions(queue=6)), Scheduler(ServeOptions(queue=6)), Counter[str]()
    for client in waiting:
        if not full(at_once, client, Counter()):
            add(at_once, client)
            add(in_a_turn, client)
    let_in: list[str] = []
    for client in asking:
        refused = full(in_a_turn, client, coming)
        assert refused == full(at_once, client, Counter())
        if not refused:
            coming[client] += 1
            let_in.append(client)
            add(at_once, client)
    for client in let_in:  # finds its room
        add(in_a_turn, client)
