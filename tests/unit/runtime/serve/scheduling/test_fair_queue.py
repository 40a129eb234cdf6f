"""Clients take turns, one row a turn; each client's requests leave in order of arrival."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.serve.scheduling.fair_queue import FairQueue
from internvl_edge.runtime.serve.scheduling.ticket import Key, Ticket

KEY = Key("m", None)


def ticket(client: str, rows: int, arrived: float = 0.0, deadline: float | None = None) -> Ticket:
    return Ticket(key=KEY, rows=rows, client=client, arrived=arrived, deadline=deadline)


def queue(*tickets: Ticket) -> FairQueue:
    made = FairQueue()
    for each in tickets:
        made.add(each)
    return made


def taken(made: FairQueue, limit: int) -> list[tuple[Ticket, int, int]]:
    return [tuple(part) for part in made.take(limit)]


def test_rows_are_shared_out_evenly() -> None:
    much, little = ticket("a", 10), ticket("b", 2)
    made = queue(much, little)
    assert taken(made, 6) == [(much, 0, 4), (little, 0, 2)]
    assert (made.rows, made.tickets, list(made.clients)) == (6, 1, ["a"])
    assert taken(made, 100) == [(much, 4, 10)]
    assert (made.rows, made.tickets, list(made.clients)) == (0, 0, [])
    assert taken(made, 5) == []


def test_a_clients_requests_leave_in_order() -> None:
    first, second = ticket("a", 2), ticket("a", 3)
    assert taken(queue(first, second), 4) == [(first, 0, 2), (second, 0, 2)]


def test_turns_go_on_where_the_last_batch_ended() -> None:
    tickets = [ticket(client, 3) for client in "abc"]
    made = queue(*tickets)
    assert [part[0].client for part in taken(made, 2)] == ["a", "b"]
    assert [part[0].client for part in taken(made, 2)] == ["c", "a"]


def test_what_is_withdrawn_takes_its_rows_along() -> None:
    first, second, other = ticket("a", 4), ticket("a", 3), ticket("b", 1)
    made = queue(first, second, other)
    made.take(3)  # two rows of a's first, one of b
    made.remove(first)
    assert (made.rows, made.tickets) == (3, 1)
    made.remove(second)
    assert (made.rows, made.tickets, list(made.clients)) == (0, 0, [])


def test_the_oldest_and_those_that_are_late() -> None:
    late, at_once, later, never = (
        ticket("a", 1, 5.0, 7.0),
        ticket("a", 1, 6.0, 8.0),
        ticket("b", 1, 3.0, 9.0),
        ticket("c", 1, 4.0),
    )
    made = queue(late, at_once, later, never)
    assert made.oldest == 3.0
    assert made.overdue(8.0) == [late, at_once]
    assert made.overdue(6.9) == []


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=12),
    st.lists(st.integers(1, 7), min_size=1, max_size=40),
)
def test_every_row_leaves_once_in_order_and_nobody_gets_much_more(
    given_rows: list[tuple[str, int]], limits: list[int]
) -> None:
    tickets = [ticket(client, rows) for client, rows in given_rows]
    made = queue(*tickets)
    left: dict[Ticket, int] = dict.fromkeys(tickets, 0)
    for limit in limits:
        waiting = {client: sum(t.waiting for t in tickets if t.client == client) for client in "abc"}
        parts = made.take(limit)
        shares = dict.fromkeys("abc", 0)
        for part in parts:
            assert part.start == left[part.ticket]
            left[part.ticket] = part.stop
            shares[part.ticket.client] += part.stop - part.start
        assert sum(shares.values()) == min(limit, sum(waiting.values()))
        unserved = [shares[client] for client in "abc" if shares[client] < waiting[client]]
        assert max(shares.values()) <= min(unserved, default=limit) + 1
        assert made.rows == sum(t.rows - left[t] for t in tickets)
        assert made.tickets == sum(t.rows > left[t] for t in tickets)


def test_a_client_that_has_nothing_cannot_withdraw() -> None:
    with pytest.raises(KeyError):
        FairQueue().remove(ticket("a", 1))
