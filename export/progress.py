"""How long work shows itself, and the way that shows nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Shows long work: a task has a label and a total, and is advanced from inside its block."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Open a task of `total` units."""
        ...


class Silent:
    """Shows nothing."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Return a block whose advance does nothing."""
        return nullcontext(lambda _: None)
