"""A decoder's cache on the device: two sets of buffers, allocated once, which steps read and write alternately."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from internvl_edge.runtime.backends.array_cache import past_name
from internvl_edge.runtime.backends.cuda import Cuda
from internvl_edge.runtime.backends.tensorrt.memory import DeviceBuffer
from internvl_edge.runtime.backends.tensorrt.program import DeviceTensor
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.stages import UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime.backends.tensorrt.session import TensorRTSession

_LOGITS = "logits"


class TensorRTCache:
    """Keys and values that stay on the device: a step copies only ids to it and logits from it.

    Raises:
        BackendError: the device has not enough memory for the buffers.
    """

    def __init__(
        self, session: "TensorRTSession", cuda: Cuda, present: Mapping[str, np.ndarray], rows: int, length: int
    ) -> None:
        self._session, self._cuda = session, cuda
        first = {
            name: np.ascontiguousarray(values, session.inputs[past_name(name)].dtype)
            for name, values in present.items()
        }
        self._item_bytes = {name: values.itemsize for name, values in first.items()}
        self._shapes: Mapping[str, tuple[int, ...]] = {name: values.shape for name, values in first.items()}
        self._used, self._free = ({name: DeviceBuffer(cuda) for name in first} for _ in range(2))
        try:
            with session.lane() as lane:
                for name, size_bytes in self._needed(rows, length).items():
                    for buffers in (self._used, self._free):
                        buffers[name].reserve(size_bytes)
                for name, values in first.items():
                    cuda.copy_in(self._used[name].address, values, lane.stream)
                lane.drain()
        except BaseException:
            self.close()
            raise

    def step(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> np.ndarray:
        """Append the keys and values of new positions; return logits ``[R, V]`` of the last.

        Raises:
            InputError: there are more positions than the cache or the plan allows.
            BackendError: the plan fails.
        """
        columns = inputs["position_ids"].shape[1]
        grown = {name: (r, h, past + columns, d) for name, (r, h, past, d) in self._shapes.items()}
        self._require_room(grown)
        held = {past_name(name): self._tensor(self._used, name, shape) for name, shape in self._shapes.items()}
        held |= {name: self._tensor(self._free, name, shape) for name, shape in grown.items()}
        logits = self._session.run_held(inputs, held, [_LOGITS], stages)[_LOGITS]
        self._swap(grown)
        return logits

    def select(self, rows: np.ndarray, shared: int) -> None:
        """Copy the rows of these indexes to the other set of buffers.

        Whole rows are copied, and adjacent rows in one call: a call on the device costs more than copying the shared
        positions again.
        """
        if all(np.array_equal(rows, np.arange(shape[0])) for shape in self._shapes.values()):
            return
        kept = {name: (len(rows), *shape[1:]) for name, shape in self._shapes.items()}
        self._require_room(kept)
        with self._session.lane() as lane:
            for name, shape in kept.items():
                row_bytes = prod(shape[1:]) * self._item_bytes[name]
                source, target = self._used[name].address, self._free[name].address
                for first, start, count in _runs(rows):
                    self._cuda.copy(
                        target + first * row_bytes, source + start * row_bytes, count * row_bytes, lane.stream
                    )
            lane.drain()
        self._swap(kept)

    def truncate(self, length: int) -> None:
        """Copy the first `length` positions of every head to the other set of buffers."""
        kept = {name: (rows, heads, length, size) for name, (rows, heads, _, size) in self._shapes.items()}
        with self._session.lane() as lane:
            for name, (rows, heads, past, size) in self._shapes.items():
                item_bytes = size * self._item_bytes[name]
                source, target = self._used[name].address, self._free[name].address
                for head in range(rows * heads if length else 0):
                    places = target + head * length * item_bytes, source + head * past * item_bytes
                    self._cuda.copy(*places, length * item_bytes, lane.stream)
            lane.drain()
        self._swap(kept)

    def reserve(self, rows: int, length: int) -> None:
        """Allocate larger buffers if these are too small, one set after the other, and copy the cache.

        Raises:
            BackendError: the device has not enough memory for them.
        """
        needed = self._needed(rows, length)
        if all(self._free[name].size_bytes >= size_bytes for name, size_bytes in needed.items()):
            return
        with self._session.lane() as lane:
            for name, size_bytes in needed.items():
                target = self._free[name].reserve(size_bytes)
                if held := prod(self._shapes[name]) * self._item_bytes[name]:
                    self._cuda.copy(target, self._used[name].address, held, lane.stream)
            lane.drain()
            self._swap(self._shapes)
            for name, size_bytes in needed.items():
                self._free[name].reserve(size_bytes)

    def close(self) -> None:
        """Free the cache; a second call does nothing."""
        with self._cuda.current():
            for buffers in (self._used, self._free):
                for buffer in buffers.values():
                    buffer.free()

    def _needed(self, rows: int, length: int) -> dict[str, int]:
        """Return the bytes that each tensor takes for `rows` rows of `length` positions."""
        return {
            name: rows * heads * length * size * self._item_bytes[name]
            for name, (_, heads, _, size) in self._shapes.items()
        }

    def _tensor(self, buffers: Mapping[str, DeviceBuffer], name: str, shape: tuple[int, ...]) -> DeviceTensor:
        return DeviceTensor(buffers[name].address, shape)

    def _require_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that tensors fit into the buffers, since the device would write beyond their end."""
        for name, shape in shapes.items():
            if prod(shape) * self._item_bytes[name] > self._free[name].size_bytes:
                raise InputError(
                    f"cache: {shape[0]} rows of {shape[2]} positions do not fit; open it for more rows or positions"
                )

    def _swap(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make the buffers that were written the cache, and the others free."""
        self._used, self._free, self._shapes = self._free, self._used, shapes


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (index, first row, count) of the runs of consecutive rows in `rows`."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    for first, end in pairwise(edges):
        yield first, int(rows[first]), end - first
