"""A decoder's cache on ONNX Runtime: two sets of buffers, taken once, that steps read and write in turn."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.array_cache import move_rows, past_name
from internvl_edge.runtime.backends.session import TensorInfo
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.stages import COMPUTE, UNMEASURED, Stages


class OnnxRuntimeCache:
    """The graph appends by concatenation, so that a step copies the cache once, from one set of buffers to the other.

    Raises:
        BackendError: there is no room for the buffers.
    """

    def __init__(
        self,
        session: Any,
        graph: str,
        takes: Mapping[str, TensorInfo],
        present: Mapping[str, np.ndarray],
        rows: int,
        length: int,
    ) -> None:
        self._session, self._graph, self._takes = session, graph, takes
        self._present = {
            name: np.ascontiguousarray(values, takes[past_name(name)].dtype) for name, values in present.items()
        }
        self._borrowed = True  # `present` is the caller's until the first step
        sizes = {name: rows * values.shape[1] * length * values.shape[3] for name, values in self._present.items()}
        try:
            self._free, self._used = (
                {name: np.empty(size, self._present[name].dtype) for name, size in sizes.items()} for _ in range(2)
            )
        except MemoryError as error:
            raise BackendError(
                f"graph {graph}: no memory for a cache of {rows} rows and {length} positions;"
                " lower the batch, the beams or the new tokens"
            ) from error

    def step(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> np.ndarray:
        """Append the keys and values of new columns; return logits ``[R, V]`` of the last.

        Raises:
            BackendError: the graph fails on these values.
        """
        from onnxruntime import OrtValue  # on the array's own memory, as long as it is the CPU's

        columns = inputs["input_ids"].shape[1]
        grown = {name: self._room(name, len(past), past.shape[2] + columns) for name, past in self._present.items()}
        binding = self._session.io_binding()
        fed = {name: np.ascontiguousarray(value, self._takes[name].dtype) for name, value in inputs.items()}
        fed |= {past_name(name): values for name, values in self._present.items()}
        for name, value in fed.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(value))
        for name, value in grown.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(value))
        binding.bind_output("logits", "cpu")
        try:
            with stages.stage(COMPUTE, self._graph):
                self._session.run_with_iobinding(binding)
        except Exception as error:  # the library raises classes of its own, without a common base but this
            reason = str(error).splitlines()[0]
            raise BackendError(f"graph {self._graph}: failed at run time ({reason}); check its inputs") from error
        self._take(grown)
        logits: np.ndarray = binding.get_outputs()[-1].numpy()
        return logits

    def select(self, rows: np.ndarray, shared: int) -> None:
        """Keep the rows of these indexes: as many as there are in place, another number in the other buffers."""
        if not self._borrowed and all(len(values) == len(rows) for values in self._present.values()):
            for values in self._present.values():
                move_rows(values, rows, shared)
            return
        kept = {name: self._room(name, len(rows), values.shape[2]) for name, values in self._present.items()}
        for name, values in self._present.items():
            np.take(values, rows, axis=0, out=kept[name])
        self._take(kept)

    def close(self) -> None:
        """Free the cache."""
        self._present, self._free, self._used = {}, {}, {}

    def _room(self, name: str, rows: int, positions: int) -> np.ndarray:
        """Return free memory ``[rows, H, positions, D]`` for one tensor."""
        _, heads, _, size = self._present[name].shape
        shape = (rows, heads, positions, size)
        return self._free[name][: prod(shape)].reshape(shape)

    def _take(self, present: dict[str, np.ndarray]) -> None:
        """Make `present`, which lies in the free buffers, the cache; what held it is free."""
        self._present, self._borrowed = present, False
        self._free, self._used = self._used, self._free
