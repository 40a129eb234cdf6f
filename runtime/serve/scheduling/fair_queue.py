"""A queue of the requests of one batching key that serves clients in turn, one row at a time (round robin)."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from internvl_edge.runtime.serve.scheduling.ticket import Slice, Ticket


class FairQueue:
    """Waiting requests by client, each client's in order of arrival.

    The rows of each batch are divided evenly among the clients that wait; one with many requests fills the rest.
    """

    def __init__(self) -> None:
        self.rows = 0
        """Number of rows that wait."""
        self.tickets = 0
        """Number of requests with waiting rows."""
        self._turns: OrderedDict[str, deque[Ticket]] = OrderedDict()

    @property
    def clients(self) -> Iterable[str]:
        """Return the clients whose requests wait."""
        return self._turns

    @property
    def oldest(self) -> float:
        """Return the time of arrival of the request that has waited longest."""
        return min(tickets[0].arrived for tickets in self._turns.values())

    def add(self, ticket: Ticket) -> None:
        """Add a request behind those of its client."""
        self._turns.setdefault(ticket.client, deque()).append(ticket)
        self.rows += ticket.waiting
        self.tickets += 1

    def remove(self, ticket: Ticket) -> None:
        """Remove a queued request."""
        tickets = self._turns[ticket.client]
        tickets.remove(ticket)
        if not tickets:
            del self._turns[ticket.client]
        self.rows -= ticket.waiting
        self.tickets -= 1

    def overdue(self, now: float) -> list[Ticket]:
        """Return the requests whose deadline has passed."""
        return [
            ticket
            for tickets in self._turns.values()
            for ticket in tickets
            if ticket.deadline is not None and ticket.deadline <= now
        ]

    def take(self, limit: int) -> tuple[Slice, ...]:
        """Remove and return at most `limit` rows."""
        taken: dict[Ticket, int] = {}
        for _ in range(min(limit, self.rows)):
            client, tickets = next(iter(self._turns.items()))
            ticket = tickets[0]
            taken[ticket] = taken.get(ticket, 0) + 1
            if taken[ticket] == ticket.waiting:
                tickets.popleft()
                self.tickets -= 1
            if tickets:
                self._turns.move_to_end(client)
            else:
                del self._turns[client]
        self.rows -= sum(taken.values())
        return tuple(ticket.take(rows) for ticket, rows in taken.items())
