"""What the engine tells whoever watches it."""

from collections.abc import Sequence
from typing import Protocol


class Observer(Protocol):
    """Is told what happens to requests inside the engine; called on the event loop, so it returns at once."""

    def accepted(self, model: str) -> None:
        """A request was taken into the queue."""
        ...

    def refused(self, model: str, refusal: str) -> None:
        """A request got no answer; `refusal` is the name of the `RefusalError`'s class."""
        ...

    def batch(self, model: str, rows: int) -> None:
        """A batch of so many rows went to a worker."""
        ...

    def queued(self, depth: int) -> None:
        """So many requests wait now."""
        ...

    def stage(self, model: str, stage: str, seconds: float, traces: Sequence[str] = ()) -> None:
        """A stage ended now that took so long; `traces` are the `Request.trace` of those that it served."""
        ...

    def cache(self, hit: bool) -> None:
        """A picture was looked up by its content."""
        ...

    def worker(self, name: str, alive: bool) -> None:
        """A worker came up or went down."""
        ...


class NullObserver:
    """Nobody watches."""

    def accepted(self, model: str) -> None:
        """Forget it."""

    def refused(self, model: str, refusal: str) -> None:
        """Forget it."""

    def batch(self, model: str, rows: int) -> None:
        """Forget it."""

    def queued(self, depth: int) -> None:
        """Forget it."""

    def stage(self, model: str, stage: str, seconds: float, traces: Sequence[str] = ()) -> None:
        """Forget it."""

    def cache(self, hit: bool) -> None:
        """Forget it."""

    def worker(self, name: str, alive: bool) -> None:
        """Forget it."""
