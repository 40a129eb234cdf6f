"""A language model's cache in the states of an OpenVINO request, which its attention kernel appends to."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_edge.runtime.backends.openvino_states import PAST, PRESENT, ROWS
from internvl_edge.runtime.backends.session import require_step
from internvl_edge.runtime.stages import UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime.backends.openvino import OpenVinoSession

_LOGITS, _POSITIONS = "logits", "position_ids"


class OpenVinoCache:
    """Keys and values of one request of its own. Rows that a search selects are gathered by the next step's kernel."""

    def __init__(self, session: "OpenVinoSession", request: Any, present: Mapping[str, np.ndarray]) -> None:
        self._session, self._request = session, request
        self._takes = {name: info for name, info in session.inputs.items() if not name.startswith(PAST)}
        rows, _, self._length, _ = next(iter(present.values())).shape
        self._rows = np.arange(rows, dtype=np.int32)
        """Row of the states that each row continues."""
        write_states(request, present)

    def step(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> np.ndarray:
        """Append the keys and values of new positions; return logits ``[R, V]`` of the last.

        Raises:
            InputError: the inputs do not fit the graph or the positions in the cache.
            BackendError: the graph fails.
        """
        require_step(self._session, inputs, self._takes, self._session.graph, (len(self._rows), self._length))
        arrays = {name: np.require(inputs[name], info.dtype, ["C", "W"]) for name, info in self._takes.items()}
        self._session.infer(self._request, {**arrays, ROWS: self._rows}, stages)
        self._length += inputs[_POSITIONS].shape[1]
        self._rows = np.arange(len(self._rows), dtype=np.int32)
        logits: np.ndarray = self._request.get_tensor(_LOGITS).data.copy()
        return logits

    def select(self, rows: np.ndarray, shared: int) -> None:
        """Keep the rows of these indexes, without copying them."""
        self._rows = self._rows[rows] if self._length else np.arange(len(rows), dtype=np.int32)

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions, which are copied."""
        if length >= self._length:
            return
        kept = {state.name: state.state.data[:, :, :length] for state in self._request.query_state()}
        write_states(self._request, kept)
        self._length = length
        if not length:
            self._rows = np.arange(len(self._rows), dtype=np.int32)

    def reserve(self, rows: int, length: int) -> None:
        """Do nothing: the states grow with the steps."""

    def close(self) -> None:
        """Free the cache; a second call does nothing."""
        self._request = None


def write_states(request: Any, present: Mapping[str, np.ndarray]) -> None:
    """Set the states of `request` to the tensors ``present.*`` of a cache, which may be empty."""
    from openvino import Tensor

    request.reset_state()
    for state in request.query_state():
        if present[state.name].shape[2]:
            state.state = Tensor(np.array(present[state.name], np.float32))


def read_states(request: Any) -> dict[str, np.ndarray]:
    """Return copies of the states of `request`, the ``present.*`` of a cache."""
    return {state.name: state.state.data.astype(np.float32) for state in request.query_state()}


def as_present(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the `past_key_values.*` of `inputs` under the names of outputs."""
    return {name.replace(PAST, PRESENT, 1): values for name, values in inputs.items() if name.startswith(PAST)}
