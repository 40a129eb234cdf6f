"""What every backend gives: an opened graph, its inputs and outputs, and the same findings on wrong arrays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.stages import UNMEASURED, Stages

_CASTABLE = {"f": "f", "i": "iub", "u": "iub", "b": "b"}
"""Kind of a graph's type -> kinds of NumPy types that are cast to it: another width, never another meaning."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a graph."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    """A number, the name of a dynamic axis, or None where it is dynamic without a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """What a user may set of a backend; each takes what it knows."""

    threads: int | None = None
    """Of a CPU backend; None: one for a small graph, else one for each core."""
    bf16: bool = False
    """A processor with units for bf16 may compute in it what the graph has in fp16 or fp32: faster, and less exact."""
    rows: int = 1
    """Pictures or texts that most calls will have: `auto` takes what is fastest with so many."""
    target: str | None = None
    """Whose plans to open; None: those that fit the device that is here."""
    cuda_graph: bool = True
    """Replay launches of a shape that was run before; off: enqueue each time."""
    spin: bool = False
    """Wait for the device by polling."""
    streams: int = 1
    """Contexts that may run side by side on a device."""


class Session(Protocol):
    """One opened graph. Threads may share it."""

    @property
    def backend(self) -> str:
        """Return the backend's name."""
        ...

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """Return what the graph takes."""
        ...

    @property
    def outputs(self) -> Mapping[str, TensorInfo]:
        """Return what the graph gives."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """Return what changes the meaning of a time: versions, threads, lowering, CUDA graph, how it waits."""
        ...

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return the named outputs (default: all) for the named inputs.

        Raises:
            InputError: names, types or shapes that the graph does not take, all of them.
            BackendError: the graph fails on values that its signature allows.
        """
        ...

    def close(self) -> None:
        """Free what the graph holds; a second call does nothing."""
        ...


Opener = Callable[[Bundle, str, SessionOptions], Session]
"""Opens a graph of a bundle by name."""


class KeyValueCache(Protocol):
    """Keys and values of the rows of one generation, in the memory that the decoder reads. For one thread."""

    def step(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> np.ndarray:
        """Append the keys and values of new columns; return logits ``[R, V]`` of the last, the caller's to keep.

        `inputs` are the decoder's without its past: ids ``[R, n]``, mask ``[R, held + n]`` and positions ``[R, n]``.
        """
        ...

    def select(self, rows: np.ndarray, shared: int) -> None:
        """Keep the rows of these indexes, in this order, repeats allowed.

        The first `shared` positions are the same in every row that one index may be replaced by: while the number of
        rows stays, only what lies behind them, and only rows that change, need to move.
        """
        ...

    def close(self) -> None:
        """Free the cache; a second call does nothing."""
        ...


@runtime_checkable
class RowLimit(Protocol):
    """A session whose graph takes a certain number of rows at most."""

    @property
    def max_rows(self) -> int | None:
        """Return what axis 0 may be at most; None: any size."""
        ...


@runtime_checkable
class CacheSession(Session, Protocol):
    """A session that keeps a decoder's cache in its own memory: nothing of it crosses the border from step to step."""

    def open_cache(self, present: Mapping[str, np.ndarray], rows: int, length: int) -> KeyValueCache:
        """Return a cache that begins with `present`, as another graph gave it: ``present.*`` ``[R, H, P, D]``.

        Memory is taken once, for at most `rows` rows of `length` positions. `present` is not written to.

        Raises:
            BackendError: there is no room for it.
        """
        ...


def require_arrays(
    graph: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    takes: Mapping[str, TensorInfo],
    gives: Mapping[str, TensorInfo],
) -> None:
    """Check what `run` was given against the graph's signature.

    Raises:
        InputError: naming all that is wrong.
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


def _misfits(given: Mapping[str, np.ndarray], takes: Mapping[str, TensorInfo]) -> Iterator[str]:
    """Yield what is wrong with the shapes: a fixed axis of another size, or one axis name with two sizes."""
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
