"""A decoder's cache as inputs and outputs of `Session.run`, for backends that keep no cache of their own."""

from collections.abc import Callable, Mapping

import numpy as np

from internvl_edge.runtime.backends.session import CacheSession, KeyValueCache, Session
from internvl_edge.runtime.stages import UNMEASURED, Stages

Run = Callable[[Mapping[str, np.ndarray], Stages], Mapping[str, np.ndarray]]
"""Function that runs the decoder: from ids, mask, positions and ``past_key_values.*`` to ``logits`` and
``present.*``."""


class ArrayCache:
    """A cache of arrays: the outputs of a step are the inputs of the next."""

    def __init__(self, run: Run, present: Mapping[str, np.ndarray]) -> None:
        self._run = run
        self._present = dict(present)
        self._borrowed = True  # the arrays are the caller's until the first step

    def step(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> np.ndarray:
        """Append the keys and values of new columns; return logits ``[R, V]`` of the last."""
        past = {past_name(name): values for name, values in self._present.items()}
        outputs = dict(self._run({**inputs, **past}, stages))
        logits = outputs.pop("logits")
        self._present, self._borrowed = outputs, False
        return logits

    def select(self, rows: np.ndarray, shared: int) -> None:
        """Keep the rows of these indexes, in place if their number stays the same, else in new arrays."""
        for name, values in self._present.items():
            if self._borrowed or len(values) != len(rows) or not values.flags.writeable:
                self._present[name] = values[rows]
            else:
                move_rows(values, rows, shared)
        self._borrowed = False

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions in new arrays, so that the others take no memory."""
        self._present = {name: values[:, :, :length].copy() for name, values in self._present.items()}
        self._borrowed = False

    def reserve(self, rows: int, length: int) -> None:
        """Do nothing: every step returns larger arrays."""

    def close(self) -> None:
        """Free the cache."""
        self._present.clear()


def open_cache(session: Session, present: Mapping[str, np.ndarray], rows: int, length: int) -> KeyValueCache:
    """Return the session's own cache for `rows` rows of `length` positions, or one of arrays if it has none."""
    if isinstance(session, CacheSession):
        return session.open_cache(present, rows, length)
    return ArrayCache(lambda inputs, stages: session.run(inputs, stages=stages), present)


def past_name(present: str) -> str:
    """Return the name of the input that takes the output `present` of the last step."""
    return present.replace("present", "past_key_values", 1)


def move_rows(values: np.ndarray, rows: np.ndarray, shared: int) -> None:
    """Replace the rows of `values` ``[R, H, P, D]`` by those of `rows`; all agree on the first `shared` positions."""
    moved = np.flatnonzero(rows != np.arange(len(rows)))
    if moved.size:
        values[moved, :, shared:] = values[rows[moved], :, shared:]
