"""The protocols of opened graphs that all backends implement, and the check of input arrays that they share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.stages import UNMEASURED, Stages

_CASTABLE = {"f": "f", "i": "iub", "u": "iub", "b": "b"}
"""Kinds of NumPy types that may be cast to each kind of a graph's type: the width may differ, not the meaning."""


NUMPY_REMEDY = "export with --dtype fp16 or fp32"
"""Remedy for inputs and outputs whose type NumPy lacks."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, type and shape of an input or output of a graph."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    """Sizes, names of dynamic axes, or None for dynamic axes without a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Options of a session; each backend uses those that apply to it."""

    threads: int | None = None
    """Number of threads of a CPU backend; None means one for a small graph, else one for each core."""
    bf16: bool = False
    """Whether a processor with units for bf16 may compute fp16 and fp32 graphs in bf16, which is faster and less
    exact."""
    rows: int = 1
    """Number of pictures or texts of most calls. `auto` measures backends with it, and where no number of threads is
    given, it follows from this one."""
    target: str | None = None
    """Name of the target whose plans are opened; None means those for the device of this machine."""
    cuda_graph: bool = True
    """Whether launches for a shape that ran before are replayed as a CUDA graph instead of enqueued again."""
    spin: bool = False
    """Whether threads wait for the device by polling."""
    streams: int = 1
    """Number of execution contexts that may run concurrently on a device."""


class Session(Protocol):
    """An opened graph. Threads may share it."""

    @property
    def backend(self) -> str:
        """Return the name of the backend."""
        ...

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """Return the inputs of the graph by name."""
        ...

    @property
    def outputs(self) -> Mapping[str, TensorInfo]:
        """Return the outputs of the graph by name."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """Return the settings that times depend on: versions, threads, lowering, CUDA graph, way of waiting."""
        ...

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return the named outputs (default: all) for the named inputs.

        Raises:
            InputError: the graph does not take some names, types or shapes, all of them named.
            BackendError: the graph fails on inputs that fit its signature.
        """
        ...

    def close(self) -> None:
        """Free the graph; a second call does nothing."""
        ...


Opener = Callable[[Bundle, str, SessionOptions], Session]
"""Function that opens a graph of a bundle by name."""


class KeyValueCache(Protocol):
    """The keys and values of all rows of one generation, in memory that the decoder reads. It is not thread-safe."""

    def step(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> np.ndarray:
        """Append the keys and values of new positions; return logits ``[R, V]`` of the last, which the caller may keep.

        `inputs` are the decoder's without its past: ids ``[R, n]`` or embeddings ``[R, n, H]``, `attention_mask`
        ``[R, past + n]`` and `position_ids` ``[R, n]``.
        """
        ...

    def select(self, rows: np.ndarray, shared: int) -> None:
        """Keep the rows of these indexes, in this order, repeats allowed.

        Rows that replace each other agree on the first `shared` positions. As long as the number of rows stays the
        same,
        only later positions of the rows that change have to be copied.
        """
        ...

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions of every row, for a prompt that begins like the last one."""
        ...

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` positions in all; what the cache holds stays.

        Caches that grow with their steps have nothing to do.

        Raises:
            BackendError: there is not enough memory.
        """
        ...

    def close(self) -> None:
        """Free the cache; a second call does nothing."""
        ...


@runtime_checkable
class RowLimit(Protocol):
    """A session whose graph takes a limited number of rows."""

    @property
    def max_rows(self) -> int | None:
        """Return the largest size of axis 0; None for any size."""
        ...


@runtime_checkable
class CacheSession(Session, Protocol):
    """A session that keeps a decoder's cache in its own memory, so that no step copies the cache."""

    def open_cache(self, present: Mapping[str, np.ndarray], rows: int, length: int) -> KeyValueCache:
        """Return a cache that begins with `present`, the ``present.*`` ``[R, H, P, D]`` of another graph.

        Memory is allocated once, for at most `rows` rows of `length` positions. `present` is not written to.

        Raises:
            BackendError: there is not enough memory.
        """
        ...


def run_failure(graph_file: str, reason: str) -> str:
    """Return the message for a graph that a library failed to run."""
    return f"{graph_file}: failed at run time ({reason}); check its inputs"


def require_arrays(
    graph: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    takes: Mapping[str, TensorInfo],
    gives: Mapping[str, TensorInfo],
) -> None:
    """Check the inputs and the names of outputs of a call of `run` against the graph's signature.

    Raises:
        InputError: some do not fit; the message names all.
    """
    wrong = [f"input {name} is missing" for name in takes if name not in inputs]
    wrong += [f"no input {name}" for name in inputs if name not in takes]
    wrong += [f"no output {name}" for name in outputs if name not in gives]
    given = {name: value for name, value in inputs.items() if name in takes}
    wrong += [
        f"{name} is {value.dtype} instead of {takes[name].dtype}"
        for name, value in given.items()
        if value.dtype.kind not in _CASTABLE.get(takes[name].dtype.kind, takes[name].dtype.kind)
    ]
    wrong += _misfits(given, takes)
    if wrong:
        raise InputError(f"graph {graph}: {'; '.join(wrong)}; see `internvl-edge inspect`")


def require_step(
    session: Session,
    inputs: Mapping[str, np.ndarray],
    takes: Mapping[str, TensorInfo],
    graph: str,
    held: tuple[int, int],
) -> None:
    """Check the inputs of a step of a cache of `held` rows and positions; `takes` are the graph's without its past.

    Raises:
        InputError: they do not fit the graph, or mask and positions do not fit the cache.
    """
    require_arrays(graph, inputs, [], takes, session.outputs)
    mask, (rows, past) = inputs["attention_mask"], held
    if mask.shape != (rows, total := past + inputs["position_ids"].shape[1]):
        raise InputError(
            f"graph {graph}: attention_mask is {list(mask.shape)} instead of {[rows, total]}, the rows and positions of"
            " the cache and the new ones; give one value for each"
        )


def _misfits(given: Mapping[str, np.ndarray], takes: Mapping[str, TensorInfo]) -> Iterator[str]:
    """Yield faults of shapes: a fixed axis of another size, or one axis name with two sizes."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in given.items():
        shape = takes[name].shape
        fixed = [(found, size) for found, size in zip(value.shape, shape, strict=False) if isinstance(size, int)]
        if value.ndim != len(shape) or any(found != size for found, size in fixed):
            yield f"{name} has shape {list(value.shape)} instead of [{', '.join(map(str, shape))}]"
            continue
        for found, axis in zip(value.shape, shape, strict=True):
            if isinstance(axis, str):
                size, first = sizes.setdefault(axis, (found, name))
                if found != size:
                    yield f"axis {axis} is {found} in {name} but {size} in {first}"
