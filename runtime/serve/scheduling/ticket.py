"""A request's rows while they wait, and the batches in which they are sent to workers."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """The batching key: rows may be in one batch only if their keys are equal."""

    model: str
    bucket: Hashable
    """Shapes, parameters and all else that the rows of a batch share."""
    stream: bool = False
    """Whether the answer is streamed in parts."""
    alone: int = 0
    """A unique number if no other request may join; 0 otherwise."""


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """One request in the queue. The scheduler does not read its `work`."""

    key: Key
    rows: int
    client: str = ""
    arrived: float
    deadline: float | None = None
    first_waiting: int = 0
    """Index of the first row that still waits."""
    crashes: int = 0
    """Number of workers that were lost while they held the request."""
    work: object = None
    """The `Work` of the request."""

    @property
    def waiting(self) -> int:
        """Return the number of rows that wait."""
        return self.rows - self.first_waiting

    def take(self, rows: int) -> "Slice":
        """Remove the next `rows` rows and return them as a slice."""
        start = self.first_waiting
        self.first_waiting += rows
        return Slice(self, start, self.first_waiting)


class Slice(NamedTuple):
    """Rows `start` to `stop` of one request that are computed in one batch."""

    ticket: Ticket
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of one or more requests that are computed together."""

    key: Key
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(part.stop - part.start for part in self.slices)
