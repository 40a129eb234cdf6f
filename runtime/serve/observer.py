"""The events that the engine reports to an observer."""

from collections.abc import Sequence
from typing import Protocol


class Observer(Protocol):
    """A receiver of the engine's events; its methods run on the event loop, so they must return at once."""

    def accepted(self, model: str) -> None:
        """Count a request that was put into the queue."""
        ...

    def refused(self, model: str, refusal: str) -> None:
        """Count a request that got no answer; `refusal` is the name of the `RefusalError`'s class."""
        ...

    def batch(self, model: str, rows: int) -> None:
        """Count a batch of `rows` rows that was sent to a worker."""
        ...

    def queued(self, depth: int) -> None:
        """Note the number of requests that wait now."""
        ...

    def stage(self, model: str, stage: str, seconds: float, traces: Sequence[str] = ()) -> None:
        """Note the duration of a stage that ended now; `traces` holds `Request.trace` of each request in it."""
        ...

    def cache(self, hit: bool) -> None:
        """Count a lookup of a picture in the cache."""
        ...

    def worker(self, name: str, alive: bool) -> None:
        """Note that a worker has started to take batches, or has ended."""
        ...


class NullObserver:
    """An observer that ignores every event."""

    def accepted(self, model: str) -> None:
        """Ignore the event."""

    def refused(self, model: str, refusal: str) -> None:
        """Ignore the event."""

    def batch(self, model: str, rows: int) -> None:
        """Ignore the event."""

    def queued(self, depth: int) -> None:
        """Ignore the event."""

    def stage(self, model: str, stage: str, seconds: float, traces: Sequence[str] = ()) -> None:
        """Ignore the event."""

    def cache(self, hit: bool) -> None:
        """Ignore the event."""

    def worker(self, name: str, alive: bool) -> None:
        """Ignore the event."""
