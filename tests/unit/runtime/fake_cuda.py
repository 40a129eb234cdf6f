"""A device without a device: work waits in its stream until the host waits for it, and every misuse is an error.

It holds what a real one leaves undefined: memory that is used after it was freed or beyond its end, a host that reads
before the stream got there, two streams in one scratch memory, a graph whose contexts changed, a call without one.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.cuda import CudaError, DeviceMemoryError

POISON = 0xCD
_ALIGNMENT = 256
STEP_MS = 0.5
"""What every piece of work takes on the device's clock."""


@dataclass(eq=False)
class Work:
    """One piece of work in a stream."""

    run: Callable[[], None]
    writes: tuple[int, ...] = ()
    """Addresses of memory that nothing else may use meanwhile."""


@dataclass(eq=False)
class FakeStream:
    handle: int
    waiting: list[Work] = field(default_factory=list)
    capturing: list[Work] | None = None
    contexts: dict[Any, int] = field(default_factory=dict)
    """Of the graph that is captured: context -> its state."""

    def put(self, work: Work) -> None:
        (self.waiting if self.capturing is None else self.capturing).append(work)


@dataclass(eq=False)
class FakeEvent:
    blocking: bool
    stream: FakeStream | None = None
    passed_ms: float | None = None


@dataclass(eq=False)
class FakeGraph:
    works: list[Work]
    contexts: dict[Any, int]
    dropped: bool = False


class FakeCuda:
    """One device with `capacity` bytes."""

    def __init__(self, capacity: int = 1 << 24) -> None:
        self.capacity = capacity
        self.memory: dict[int, np.ndarray] = {}
        self.pinned: list[np.ndarray] = []
        self.streams: dict[int, FakeStream] = {}
        self.graphs: list[FakeGraph] = []
        self.launched = 0
        self.captures_fail = False
        self.largest_held = 0
        self._clock_ms = 0.0
        self._next = itertools.count(1 << 20, 1 << 20)
        self._here = threading.local()
        self._lock = threading.RLock()

    @property
    def held(self) -> int:
        return sum(len(block) for block in self.memory.values())

    @contextmanager
    def current(self) -> Iterator[None]:
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            yield
        finally:
            self._here.depth -= 1

    def require_current(self) -> None:
        assert getattr(self._here, "depth", 0) > 0, "no context is current in this thread"

    def allocate(self, size_bytes: int) -> int:
        self.require_current()
        with self._lock:
            if self.held + size_bytes > self.capacity:
                raise DeviceMemoryError("out of memory")
            address = next(self._next)
            assert size_bytes < 1 << 20, "the fake keeps addresses 1 MiB apart"
            self.memory[address] = np.full(size_bytes, POISON, np.uint8)
            self.largest_held = max(self.largest_held, self.held)
            return address

    def free(self, address: int) -> None:
        self.require_current()
        assert address in self.memory, "memory is freed twice"
        busy = [w for s in self.streams.values() for w in s.waiting if address in w.writes]
        assert not busy, "memory is freed while a stream uses it"
        del self.memory[address]

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        self.require_current()
        memory = np.full(size_bytes, POISON, np.uint8)
        self.pinned.append(memory)
        return memory

    def free_pinned(self, memory: np.ndarray) -> None:
        self.require_current()
        before = len(self.pinned)
        self.pinned = [each for each in self.pinned if each is not memory]
        assert len(self.pinned) == before - 1, "pinned memory is freed twice"

    def stream(self) -> FakeStream:
        self.require_current()
        stream = FakeStream(handle=7000 + len(self.streams))
        self.streams[stream.handle] = stream
        return stream

    def event(self, *, blocking: bool) -> FakeEvent:
        self.require_current()
        return FakeEvent(blocking)

    def record(self, event: FakeEvent, stream: FakeStream) -> None:
        self.require_current()
        event.stream, event.passed_ms = stream, None

        def passed() -> None:
            event.passed_ms = self._clock_ms

        stream.put(Work(passed))

    def wait(self, event: FakeEvent) -> None:
        self.require_current()
        assert event.stream is not None, "waits for an event that no stream holds"
        while event.passed_ms is None:
            self._run_one(event.stream)

    def elapsed_ms(self, start: FakeEvent, end: FakeEvent) -> float:
        assert start.passed_ms is not None, "the start has not passed"
        assert end.passed_ms is not None, "the end has not passed"
        return end.passed_ms - start.passed_ms

    def synchronize(self, stream: FakeStream) -> None:
        self.require_current()
        assert stream.capturing is None, "a captured stream cannot be waited for"
        while stream.waiting:
            self._run_one(stream)

    def copy_in(self, address: int, values: np.ndarray, stream: FakeStream) -> None:
        self.require_current()
        assert values.flags.c_contiguous
        self.put(stream, Work(lambda: self.write(address, values), (self.block_of(address),)))

    def copy_out(self, values: np.ndarray, address: int, stream: FakeStream) -> None:
        self.require_current()
        assert values.flags.c_contiguous
        assert values.flags.writeable

        def run() -> None:
            values.reshape(-1).view(np.uint8)[:] = self.read(address, values.nbytes)

        self.put(stream, Work(run))

    def copy(self, target: int, source: int, size_bytes: int, stream: FakeStream) -> None:
        self.require_current()
        assert self.block_of(target) != self.block_of(source), "source and target overlap"
        self.put(stream, Work(lambda: self.write(target, self.read(source, size_bytes)), (self.block_of(target),)))

    def capture(self, stream: FakeStream, enqueue: Callable[[], None]) -> FakeGraph:
        self.require_current()
        assert not stream.waiting, "captures a stream that is not empty"
        stream.capturing, stream.contexts = [], {}
        try:
            enqueue()
            if self.captures_fail:
                raise CudaError("cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            graph = FakeGraph(stream.capturing, stream.contexts)
        finally:
            stream.capturing = None
        self.graphs.append(graph)
        return graph

    def launch(self, graph: FakeGraph, stream: FakeStream) -> None:
        self.require_current()
        assert not graph.dropped, "launches a graph that was freed"
        for context, state in graph.contexts.items():
            assert context.state == state, "launches a graph whose context changed since"
        self.launched += 1
        for work in graph.works:
            self.put(stream, work)

    def drop(self, graph: FakeGraph) -> None:
        self.require_current()
        assert not graph.dropped, "a graph is freed twice"
        graph.dropped = True
        self.graphs.remove(graph)

    def put(self, stream: FakeStream, work: Work) -> None:
        """Add work to a stream, in memory that no other stream uses."""
        others = [each for each in self.streams.values() if each is not stream]
        busy = {address for other in others for pending in list(other.waiting) for address in pending.writes}
        assert not busy & set(work.writes), "two streams use the same memory at once"
        stream.put(work)

    def block_of(self, address: int) -> int:
        """Return where the allocation that holds `address` begins."""
        for start, block in list(self.memory.items()):
            if start <= address < start + max(len(block), 1):
                return start
        raise AssertionError(f"no device memory at {address:#x}: never allocated, or freed")

    def read(self, address: int, size_bytes: int) -> np.ndarray:
        return self._span(address, size_bytes).copy()

    def write(self, address: int, values: np.ndarray) -> None:
        self._span(address, values.nbytes)[:] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def _span(self, address: int, size_bytes: int) -> np.ndarray:
        start = self.block_of(address)
        block, offset = self.memory[start], address - start
        assert offset + size_bytes <= len(block), "beyond the end of a block of device memory"
        return block[offset : offset + size_bytes]

    def _run_one(self, stream: FakeStream) -> None:
        self._clock_ms += STEP_MS
        stream.waiting.pop(0).run()
