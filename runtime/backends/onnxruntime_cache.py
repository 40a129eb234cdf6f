"""A language model's cache for ONNX Runtime on a CPU: arrays with room for more positions, which every step appends to.

`lowering/cached_attention.py` gives the graph a kernel that writes new keys and values behind those in the array.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_edge.runtime.backends.array_cache import move_rows, past_name
from internvl_edge.runtime.backends.session import require_step
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession

_LOGITS, _MASK, _POSITIONS, _PAST = "logits", "attention_mask", "position_ids", "past_key_values."
_BLOCK = 256
"""Positions by which arrays grow, which copies them: once in so many steps it costs less than 1 % of these."""
_FIXED = ("rope_length",)
"""Inputs without an axis of rows."""


class OnnxRuntimeCache:
    """Keys and values ``[R, H, room, D]``, of which the first positions are used.

    Raises:
        BackendError: there is not enough memory.
    """

    def __init__(self, session: "OnnxRuntimeSession", present: Mapping[str, np.ndarray]) -> None:
        self._session = session
        self._takes = {name: info for name, info in session.inputs.items() if not name.startswith(_PAST)}
        self._types = {name: session.inputs[past_name(name)].dtype for name in present}
        self._rows, _, self._length, _ = next(iter(present.values())).shape
        self._arrays = dict(present)
        self._binding: Any = None
        """Inputs and outputs as they are in memory; None after the arrays changed."""
        self._move(np.arange(self._rows), self._length)

    def step(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> np.ndarray:
        """Append the keys and values of new positions; return logits ``[R, V]`` of the last.

        Raises:
            InputError: the inputs do not fit the graph or the positions in the cache.
            BackendError: the graph fails, or the memory does not suffice.
        """
        require_step(self._session, inputs, self._takes, self._session.graph, (self._rows, self._length))
        feeds = {name: np.ascontiguousarray(value, self._takes[name].dtype) for name, value in inputs.items()}
        rows, new = feeds[_POSITIONS].shape
        total = self._length + new
        if total > self._room:
            self._move(np.arange(rows), total)
        logits = np.empty((rows, *self._session.outputs[_LOGITS].shape[1:]), self._session.outputs[_LOGITS].dtype)
        if takes_rows_one_by_one(feeds):
            for row, each in enumerate(rows_of(feeds)):
                arrays = {name: values[row : row + 1] for name, values in self._arrays.items()}
                self._run(self._bound(arrays), each, logits[row : row + 1], stages)
        else:
            self._binding = self._binding or self._bound(self._arrays)
            self._run(self._binding, feeds, logits, stages)
        self._length = total
        return logits

    def select(self, rows: np.ndarray, shared: int) -> None:
        """Keep the rows of these indexes, in place if their number stays the same, else in new arrays.

        Raises:
            BackendError: there is not enough memory.
        """
        if len(rows) != self._rows:
            self._move(rows, self._length)
            return
        for values in self._arrays.values():
            move_rows(values[:, :, : self._length], rows, shared)

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions; the arrays keep their room."""
        self._length = min(self._length, length)

    def reserve(self, rows: int, length: int) -> None:
        """Do nothing: the arrays grow with the steps."""

    def close(self) -> None:
        """Free the cache; a second call does nothing."""
        self._arrays, self._binding = {}, None

    @property
    def _room(self) -> int:
        return int(next(iter(self._arrays.values())).shape[2])

    def _move(self, rows: np.ndarray, length: int) -> None:
        """Copy these rows to new arrays with room for `length` positions, one array after the other."""
        room = -(-max(length, 1) // _BLOCK) * _BLOCK
        self._binding = None
        try:
            for name, values in self._arrays.items():
                _, heads, _, width = values.shape
                moved = np.empty((len(rows), heads, room, width), self._types[name])
                for target, row in enumerate(rows):
                    moved[target, :, : self._length] = values[row, :, : self._length]
                self._arrays[name] = moved
        except MemoryError as error:
            raise BackendError(
                f"graph {self._session.graph}: no memory for a cache of {len(rows)} rows of {room} positions; give"
                " fewer pictures, beams or new tokens"
            ) from error
        self._rows = len(rows)

    def _bound(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Return a binding in which past and present are the same arrays."""
        from onnxruntime import OrtValue

        binding = self._session.binding()
        for name, values in arrays.items():
            held = OrtValue.ortvalue_from_numpy(values)  # shares the memory of the array
            binding.bind_ortvalue_input(past_name(name), held)
            binding.bind_ortvalue_output(name, held)
        return binding

    def _run(self, binding: Any, inputs: Mapping[str, np.ndarray], logits: np.ndarray, stages: Stages) -> None:
        from onnxruntime import OrtValue

        for name, values in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(values))
        binding.bind_ortvalue_output(_LOGITS, OrtValue.ortvalue_from_numpy(logits))
        self._session.run_bound(binding, stages)


def takes_rows_one_by_one(inputs: Mapping[str, np.ndarray]) -> bool:
    """Return whether the kernel takes these rows only one by one, as it does several positions behind a cache."""
    rows, new = inputs[_POSITIONS].shape
    return bool(rows > 1 and new > 1 and inputs[_MASK].shape[1] > new)


def rows_of(inputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs of each row."""
    for row in range(len(inputs[_POSITIONS])):
        yield {name: values if name in _FIXED else values[row : row + 1] for name, values in inputs.items()}
