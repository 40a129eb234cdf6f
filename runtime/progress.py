"""The interface through which long work reports its progress, and an implementation that shows nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Advance = Callable[[float], object]
"""Function that takes the amount of work finished since its last call, in the task's unit; fractions are allowed."""

BYTES = "bytes"
"""Unit of tasks that count bytes, shown as kB, MB or GB."""


def no_advance(more: float) -> None:
    """Discard the progress."""


class Progress(Protocol):
    """A display of long work. A task has a label, a total and a unit, and is advanced inside its `with` block."""

    def task(self, label: str, total: float, unit: str) -> AbstractContextManager[Advance]:
        """Return a context in which a task of `total` units, such as ``"graphs"`` or `BYTES`, is shown."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    def task(self, label: str, total: float, unit: str) -> AbstractContextManager[Advance]:
        """Return a context whose advance does nothing."""
        return nullcontext(no_advance)
