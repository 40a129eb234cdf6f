"""Run graphs concurrently on lanes: streams with memory for activations, which the graphs of a lane share in turn."""

import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

from internvl_edge.runtime.backends.cuda import Cuda
from internvl_edge.runtime.backends.tensorrt.memory import DeviceBuffer

_MARKS = 4
"""Number of events of a run: at its start, and after copying in, computing and copying out."""


class Lane:
    """A stream with events that time a run, and the activation memory of the graph that runs on it."""

    def __init__(self, cuda: Cuda, index: int, *, spin: bool) -> None:
        self.index = index
        self.stream = cuda.stream()
        self.scratch = DeviceBuffer(cuda)
        self._cuda = cuda
        self._marks = [cuda.event(blocking=not spin) for _ in range(_MARKS)]

    def mark(self, place: int) -> None:
        """Record event `place` of the run in the stream."""
        self._cuda.record(self._marks[place], self.stream)

    def wait(self) -> None:
        """Wait until the device has reached the last event."""
        self._cuda.wait(self._marks[-1])

    def spans_ms(self) -> list[float]:
        """Return the milliseconds between the events, all of which the device has reached."""
        return [self._cuda.elapsed_ms(start, end) for start, end in pairwise(self._marks)]

    def drain(self) -> None:
        """Wait for all work of the lane."""
        self._cuda.synchronize(self.stream)


class Lanes:
    """All lanes of a process with the same settings, shared by the graphs of all bundles."""

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
        """Return a context that holds a free lane, in the device's context. The lane has no work left at its end."""
        lane = self._idle.get()
        try:
            with self._cuda.current():
                try:
                    yield lane
                except BaseException:
                    with suppress(Exception):  # it fails too on a broken device, and the first error has the reason
                        lane.drain()
                    raise
        finally:
            self._idle.put(lane)

    @contextmanager
    def all(self) -> Iterator[list[Lane]]:
        """Return a context that holds all lanes, in which nothing runs."""
        with ExitStack() as held:
            with self._taking_all:  # two callers with some of the lanes each would be a deadlock
                lanes = [held.enter_context(self.free()) for _ in range(self.count)]
            yield lanes

    def free_memory(self) -> None:
        """Free the activation memory of all lanes."""
        with self.all() as lanes:
            for lane in lanes:
                lane.scratch.free()


class SharedLanes:
    """The lanes for each setting, counted by the sessions that use them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[tuple[Cuda, int, bool], tuple[Lanes, int]] = {}

    def acquire(self, cuda: Cuda, count: int, *, spin: bool) -> Lanes:
        """Return the lanes of this setting for one more session."""
        with self._lock:
            lanes, users = self._users.get((cuda, count, spin)) or (Lanes(cuda, count, spin=spin), 0)
            self._users[cuda, count, spin] = lanes, users + 1
            return lanes

    def release(self, lanes: Lanes) -> None:
        """Release the lanes of a session; the last release frees their activation memory."""
        with self._lock:
            _, users = self._users.pop(lanes.setting)
            if users > 1:
                self._users[lanes.setting] = lanes, users - 1
            else:
                lanes.free_memory()


SHARED = SharedLanes()
"""The lanes of the process. Graphs that run one after another need the memory of the largest, not of all."""
