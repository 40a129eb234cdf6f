"""Libraries that run graphs, behind one protocol; each is imported when its first graph is opened."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from internvl_edge.runtime.errors import BackendError


class Session(Protocol):
    """One opened graph."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named outputs (default: all) for the named inputs."""
        ...


def require_backend(backend: str) -> None:
    """Check a backend's name, without loading its library.

    Raises:
        BackendError: there is no such backend.
    """
    if backend not in _OPENERS:
        raise BackendError(f"backend {backend!r}: unknown; choose from {', '.join(_OPENERS)}")


def open_session(backend: str, graph_file: Path) -> Session:
    """Open `graph_file` with `backend`; ``auto`` takes the first that can run here.

    Raises:
        BackendError: the backend is unknown, not installed, or refuses the graph.
    """
    require_backend(backend)
    return _OPENERS[backend](graph_file)


def _open_onnxruntime(graph_file: Path) -> Session:
    from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(graph_file)


_OPENERS: dict[str, Callable[[Path], Session]] = {"auto": _open_onnxruntime, "onnxruntime": _open_onnxruntime}
"""Plans are not opened yet: `export --target` builds them, and a device runs them through its own TensorRT."""
