"""When batches leave, who is in them, and who is turned away; all at times that the tests give."""

import pytest

from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import OverloadedError, TooLargeError
from internvl_edge.runtime.serve.scheduling.cost import BatchCost
from internvl_edge.runtime.serve.scheduling.scheduler import Load, Scheduler
from internvl_edge.runtime.serve.scheduling.ticket import Batch, Key, Ticket

TEXT = Key("encode_text", 0)
IMAGE = Key("encode_image", 0)
IDLE = Load()
BUSY = Load(batches=1)


def ticket(client: str = "a", rows: int = 1, arrived: float = 0.0, key: Key = TEXT, **more: object) -> Ticket:
    return Ticket(key=key, rows=rows, client=client, arrived=arrived, **more)  # type: ignore[arg-type]


def scheduler(**options: object) -> Scheduler:
    return Scheduler(ServeOptions(**{"max_batch": 4, "max_delay_ms": 2.0, "queue": 8, **options}))  # type: ignore[arg-type]


def add(queue: Scheduler, *tickets: Ticket, now: float = 0.0) -> None:
    for each in tickets:
        queue.add(each, now)


def spans(batch: Batch | None) -> list[tuple[str, int, int]]:
    assert batch is not None
    return [(part.ticket.client, part.start, part.stop) for part in batch.slices]


def test_an_idle_worker_takes_a_single_request_at_once() -> None:
    queue = scheduler()
    add(queue, ticket())
    assert spans(queue.take(0.0, IDLE)) == [("a", 0, 1)]
    assert queue.take(0.0, IDLE) is None


def test_a_busy_worker_gets_full_batches_ahead_and_no_others() -> None:
    queue = scheduler()
    add(queue, *[ticket() for _ in range(3)])
    assert queue.take(9.0, BUSY) is None
    add(queue, ticket(rows=6))
    assert sum(stop - start for _, start, stop in spans(queue.take(9.0, BUSY))) == 4
    assert queue.take(9.0, Load(batches=2)) is None


def test_a_worker_writes_one_answer_at_a_time_and_clients_take_turns() -> None:
    queue = scheduler()
    answers = [Key("chat", None, stream=True, alone=number) for number in range(1, 5)]
    for client, key in zip("aaab", answers, strict=True):
        add(queue, ticket(client, key=key))
    assert spans(queue.take(0.0, IDLE)) == [("a", 0, 1)]
    assert queue.take(0.0, Load(streams=1)) is None
    assert spans(queue.take(1.0, IDLE)) == [("b", 0, 1)], "whoever was served least recently"
    assert spans(queue.take(2.0, Load(batches=1))) == [("a", 0, 1)], "batches of graphs go between two tokens"


def test_a_request_larger_than_a_batch_leaves_in_parts() -> None:
    queue = scheduler()
    add(queue, ticket(rows=10))
    taken = [queue.take(0.0, IDLE) for _ in range(3)]
    assert [spans(batch) for batch in taken] == [[("a", 0, 4)], [("a", 4, 8)], [("a", 8, 10)]]


def test_a_request_that_takes_longer_alone_than_it_has_is_refused_for_good() -> None:
    queue = scheduler()
    add(queue, ticket())
    batch = queue.take(0.0, IDLE)
    assert batch is not None
    add(queue, ticket(rows=40, deadline=0.001))  # nothing is known yet: it is tried
    queue.done(batch, 1.0, 1.0)
    with pytest.raises(
        TooLargeError, match=r"40 rows take about 10 s and have 5 s .*parameter timeout or --deadline-ms"
    ):
        queue.add(ticket(rows=40, deadline=6.0), 1.0)
    assert queue.take(1.0, IDLE) is None  # what is overdue goes
    other = Key("encode_text", 1)  # labels or parameters that change what a row costs
    add(queue, ticket(rows=40, deadline=6.0, key=other), now=1.0)
    assert queue.take(6.0, IDLE) is None
    add(queue, ticket(rows=40, deadline=20.0), now=1.0)
    add(scheduler(), ticket(rows=4, deadline=0.5))  # one batch alone teaches how long a batch takes


def test_rows_of_different_keys_are_not_joined() -> None:
    queue = scheduler()
    add(queue, ticket("a"), ticket("b", key=IMAGE), ticket("c", key=Key("encode_text", 1)))
    keys = [batch.key for _ in range(3) if (batch := queue.take(0.0, IDLE))]
    assert keys == [TEXT, IMAGE, Key("encode_text", 1)]


def test_a_free_worker_waits_for_those_it_has_just_answered() -> None:
    queue = scheduler(max_batch=16, queue=64)
    add(queue, *[ticket(str(index)) for index in range(16)])
    batch = queue.take(0.0, IDLE)
    assert batch is not None
    add(queue, ticket("late", arrived=0.5), now=0.5)
    queue.done(batch, 1.0, 1.0)
    free = Load(idle_since=1.0)
    assert queue.take(1.0, free) is None
    assert queue.wake_at(1.0) == pytest.approx(1.002)
    add(queue, *[ticket(str(index), arrived=1.001) for index in range(8)], now=1.001)
    assert queue.take(1.001, free) is not None, "more than half of the crowd is there"


def test_a_held_request_leaves_when_the_delay_is_over() -> None:
    queue = scheduler()
    add(queue, *[ticket(str(index)) for index in range(4)])
    batch = queue.take(0.0, IDLE)
    assert batch is not None
    queue.done(batch, 1.0, 1.0)
    add(queue, ticket(arrived=1.001), now=1.001)
    assert queue.take(1.0015, Load(idle_since=1.0)) is None
    assert spans(queue.take(1.0021, Load(idle_since=1.0))) == [("a", 0, 1)]


def test_nobody_is_waited_for_once_the_crowd_is_gone() -> None:
    queue = scheduler()
    add(queue, *[ticket(str(index)) for index in range(4)])
    batch = queue.take(0.0, IDLE)
    assert batch is not None
    queue.done(batch, 1.0, 1.0)
    add(queue, ticket(arrived=5.0), now=5.0)
    assert queue.take(5.0, Load(idle_since=1.0)) is not None


def test_clients_share_a_batch_evenly() -> None:
    queue = scheduler(max_batch=8)
    add(queue, ticket("greedy", rows=40), ticket("b"), ticket("c", rows=3))
    assert sorted(spans(queue.take(0.0, IDLE))) == [("b", 0, 1), ("c", 0, 3), ("greedy", 0, 4)]


def test_the_client_served_least_recently_chooses_the_model() -> None:
    queue = scheduler()
    add(queue, *[ticket("greedy") for _ in range(6)], ticket("b", key=IMAGE, arrived=1.0))
    keys = [batch.key for _ in range(3) if (batch := queue.take(9.0, IDLE))]
    assert keys == [TEXT, IMAGE, TEXT]


def test_work_past_its_deadline_is_not_begun() -> None:
    queue = scheduler()
    add(queue, ticket("late", deadline=1.0), ticket("b", deadline=3.0))
    assert spans(queue.take(1.0, IDLE)) == [("b", 0, 1)]
    assert queue.depth == 0


def test_a_full_queue_says_when_to_come_back() -> None:
    queue = scheduler(max_batch=2)
    add(queue, *[ticket() for _ in range(2)])
    batch = queue.take(0.0, IDLE)
    assert batch is not None
    queue.done(batch, 1.0, 1.0)  # 2 rows a second
    add(queue, *[ticket() for _ in range(8)])
    with pytest.raises(OverloadedError, match="8 requests wait") as refused:
        add(queue, ticket())
    assert refused.value.retry_after_s == pytest.approx(4.0)


def test_a_newcomer_gets_its_fair_part_of_a_full_queue() -> None:
    queue = scheduler()
    add(queue, *[ticket("greedy") for _ in range(8)])
    add(queue, *[ticket("new") for _ in range(4)])
    with pytest.raises(OverloadedError):
        add(queue, ticket("new"))
    with pytest.raises(OverloadedError):
        add(queue, ticket("greedy"))


def test_twice_the_queue_is_never_passed() -> None:
    queue = scheduler(queue=4)
    accepted = 0
    for index in range(40):
        try:
            add(queue, ticket(str(index // 2)))
            accepted += 1
        except OverloadedError:
            pass
    assert 4 <= accepted <= 8


def test_all_rows_of_a_client_count_against_its_deadline() -> None:
    queue = scheduler(max_batch=2)
    add(queue, *[ticket() for _ in range(2)])
    batch = queue.take(0.0, IDLE)
    assert batch is not None
    queue.done(batch, 1.0, 1.0)
    add(queue, ticket(rows=8), now=1.0)  # 4 seconds of work in one request
    with pytest.raises(OverloadedError, match="deadline"):
        add(queue, ticket(rows=2, deadline=6.0), now=1.0)
    add(queue, ticket("other", rows=2, deadline=6.0), now=1.0)  # has every other turn


def test_a_request_that_would_be_late_is_refused_when_it_comes() -> None:
    queue = scheduler(max_batch=2)
    add(queue, *[ticket() for _ in range(2)])
    batch = queue.take(0.0, IDLE)
    assert batch is not None
    queue.done(batch, 1.0, 1.0)
    add(queue, *[ticket() for _ in range(4)], now=1.0)  # 2 seconds of work, and one for itself
    with pytest.raises(OverloadedError, match="deadline"):
        add(queue, ticket(deadline=3.5), now=1.0)
    add(queue, ticket(deadline=5.1), now=1.0)


def test_an_idle_server_tries_whatever_the_deadline() -> None:
    queue = scheduler()
    add(queue, ticket())
    batch = queue.take(0.0, IDLE)
    assert batch is not None
    queue.done(batch, 60.0, 60.0)  # the first batch is often slow
    add(queue, ticket(deadline=60.5), now=60.0)


def test_withdrawn_rows_make_room() -> None:
    queue = scheduler(queue=1)
    first = ticket(rows=3)
    add(queue, first)
    queue.withdraw(first)
    queue.withdraw(first)
    assert queue.depth == 0
    add(queue, ticket("b"))
    assert spans(queue.take(0.0, IDLE)) == [("b", 0, 1)]


def test_a_retry_goes_first_and_alone_and_to_an_idle_worker() -> None:
    queue = scheduler()
    add(queue, *[ticket() for _ in range(4)])
    queue.retry(ticket("lost", rows=3, first_waiting=1, crashes=1))
    assert queue.take(0.0, BUSY) is None, "others would be put at risk"
    assert spans(queue.take(0.0, IDLE)) == [("lost", 1, 3)]
    assert queue.take(0.0, Load(batches=1, retrying=True)) is None


def test_streams_do_not_wait_for_batches_and_are_bounded() -> None:
    queue = scheduler()
    stream = Key("caption", 0, stream=True)
    add(queue, ticket(key=stream), ticket("b", key=stream))
    assert queue.take(0.0, Load(batches=2, streams=4)) is None
    assert queue.wake_at(0.0) is None
    assert len(spans(queue.take(0.0, Load(batches=2, streams=3)))) == 2


def test_keys_without_rows_are_forgotten() -> None:
    queue = scheduler(queue=8)
    for index in range(2000):
        each = ticket(key=Key("classify", index))
        add(queue, each)
        queue.withdraw(each)
    assert len(queue._lines) <= 256


def test_a_line_is_fitted_to_what_batches_took() -> None:
    cost = BatchCost()
    assert cost.of(16) == 0
    cost.learn(1, 0.01)
    assert cost.of(16) == pytest.approx(0.01), "nothing is known of the slope"
    for _ in range(20):
        cost.learn(1, 0.012)
        cost.learn(16, 0.042)
    assert cost.of(1) == pytest.approx(0.012, rel=0.05)
    assert cost.of(8) == pytest.approx(0.026, rel=0.05)
    assert cost.of_many(40, 16) == pytest.approx(2 * 0.042 + 0.026, rel=0.05)
