"""Lanes: what runs side by side on the device. A lane runs one graph at a time, so its graphs share scratch memory."""

import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

from internvl_edge.runtime.backends.cuda import Cuda
from internvl_edge.runtime.backends.tensorrt.memory import DeviceBuffer

_MARKS = 4
"""Before and behind copying in, computing and copying out."""


class Lane:
    """A stream, its clock, and the activation memory of the graph that runs on it."""

    def __init__(self, cuda: Cuda, index: int, *, spin: bool) -> None:
        self.index = index
        self.stream = cuda.stream()
        self.scratch = DeviceBuffer(cuda)
        self._cuda = cuda
        self._marks = [cuda.event(blocking=not spin) for _ in range(_MARKS)]

    def mark(self, place: int) -> None:
        """Note when the device gets here."""
        self._cuda.record(self._marks[place], self.stream)

    def wait(self) -> None:
        """Wait until the device has passed the last mark."""
        self._cuda.wait(self._marks[-1])

    def spans_ms(self) -> list[float]:
        """Return the times between the marks, once it has passed them all."""
        return [self._cuda.elapsed_ms(start, end) for start, end in pairwise(self._marks)]

    def drain(self) -> None:
        """Wait for all that the lane was given."""
        self._cuda.synchronize(self.stream)


class Lanes:
    """All lanes of a process with the same settings; graphs of all bundles take turns on them."""

    def __init__(self, cuda: Cuda, count: int, *, spin: bool) -> None:
        self.count = count
        self.setting = (cuda, count, spin)
        self._cuda = cuda
        self._taking_all = threading.Lock()
        self._idle: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        with cuda.current():
            self._lanes = [Lane(cuda, index, spin=spin) for index in range(count)]
        for lane in self._lanes:
            self._idle.put(lane)

    @contextmanager
    def free(self) -> Iterator[Lane]:
        """Wait for a free lane, and hold it with the device's context; it is empty when it is given back."""
        lane = self._idle.get()
        try:
            with self._cuda.current():
                try:
                    yield lane
                except BaseException:
                    with suppress(Exception):  # on a broken device this fails as well, and the first error says why
                        lane.drain()
                    raise
        finally:
            self._idle.put(lane)

    @contextmanager
    def all(self) -> Iterator[list[Lane]]:
        """Hold every lane: nothing runs meanwhile."""
        with ExitStack() as held:
            with self._taking_all:  # two that each hold a part would wait for each other
                lanes = [held.enter_context(self.free()) for _ in range(self.count)]
            yield lanes

    def free_memory(self) -> None:
        """Give the scratch memory back."""
        with self.all() as lanes:
            for lane in lanes:
                lane.scratch.free()


class SharedLanes:
    """The lanes of each setting, as long as a session uses them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[tuple[Cuda, int, bool], tuple[Lanes, int]] = {}

    def acquire(self, cuda: Cuda, count: int, *, spin: bool) -> Lanes:
        """Return the lanes of this setting, and count one more user."""
        with self._lock:
            lanes, users = self._users.get((cuda, count, spin)) or (Lanes(cuda, count, spin=spin), 0)
            self._users[cuda, count, spin] = lanes, users + 1
            return lanes

    def release(self, lanes: Lanes) -> None:
        """Count one user less; the last one frees the scratch memory."""
        with self._lock:
            _, users = self._users.pop(lanes.setting)
            if users > 1:
                self._users[lanes.setting] = lanes, users - 1
            else:
                lanes.free_memory()


SHARED = SharedLanes()
"""One for the process: graphs that run in turn need the memory of the largest, not of all."""
