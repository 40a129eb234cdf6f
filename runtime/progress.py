"""How long work tells how far it is, and the way that tells nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Advance = Callable[[float], object]
"""Is told how much more is done, in the task's unit; parts of one count too."""

BYTES = "bytes"
"""The unit whose amounts are shown as kB, MB or GB."""


def no_advance(more: float) -> None:
    """Tell nobody that more is done."""


class Progress(Protocol):
    """Shows long work: a task has a label, a total and its unit, and is advanced from inside its block."""

    def task(self, label: str, total: float, unit: str) -> AbstractContextManager[Advance]:
        """Open a task of `total` units, such as ``"graphs"`` or `BYTES`."""
        ...


class Silent:
    """Shows nothing."""

    def task(self, label: str, total: float, unit: str) -> AbstractContextManager[Advance]:
        """Return a block whose advance does nothing."""
        return nullcontext(no_advance)
