"""Ctrl-C as a request to finish: the first one sets an event, the second one has Python's own effect."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130
"""Exit code of a command that Ctrl-C ended, as shells give it (128 + SIGINT)."""


@contextmanager
def finish_on_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; from the second on, Ctrl-C has its effect from before."""
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
