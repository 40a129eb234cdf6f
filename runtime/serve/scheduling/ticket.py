"""A request's rows while they wait, and the batches that they leave in."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """What rows must have in common to go through a model together."""

    model: str
    bucket: Hashable
    """Shapes, parameters and whatever else is one for the whole batch."""
    stream: bool = False
    """The answer is given in parts."""
    alone: int = 0
    """A number of its own where nothing may join; 0: others may."""


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """One request in the queue."""

    key: Key
    rows: int
    client: str = ""
    arrived: float
    deadline: float | None = None
    first_waiting: int = 0
    """Rows before this one have left."""
    crashes: int = 0
    """Workers that were lost while they held it."""
    work: object = None
    """Whose rows these are: nothing that a scheduler looks at."""

    @property
    def waiting(self) -> int:
        """Return how many rows have not left."""
        return self.rows - self.first_waiting

    def take(self, rows: int) -> "Slice":
        """Return the next rows as left."""
        start = self.first_waiting
        self.first_waiting += rows
        return Slice(self, start, self.first_waiting)


class Slice(NamedTuple):
    """Rows of one request that go together."""

    ticket: Ticket
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of one or more requests that go through a model together."""

    key: Key
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Return how many rows it has."""
        return sum(part.stop - part.start for part in self.slices)
