"""Requests of one key: clients take turns, one row a turn."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from internvl_edge.runtime.serve.scheduling.ticket import Slice, Ticket


class FairQueue:
    """Waiting requests by client, each client's in order of arrival.

    A client that sends much fills what others leave: in each batch rows are shared out evenly among those who wait.
    """

    def __init__(self) -> None:
        self.rows = 0
        """Rows that wait."""
        self.tickets = 0
        """Requests of which rows wait."""
        self._turns: OrderedDict[str, deque[Ticket]] = OrderedDict()

    @property
    def clients(self) -> Iterable[str]:
        """Return whose requests wait."""
        return self._turns

    @property
    def oldest(self) -> float:
        """Return when the request arrived that has waited longest."""
        return min(tickets[0].arrived for tickets in self._turns.values())

    def add(self, ticket: Ticket) -> None:
        """Queue a request behind those of its client."""
        self._turns.setdefault(ticket.client, deque()).append(ticket)
        self.rows += ticket.waiting
        self.tickets += 1

    def remove(self, ticket: Ticket) -> None:
        """Take out a request that is queued."""
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
        """Take out at most `limit` rows."""
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
