"""Libraries that run graphs, behind one protocol; each is imported when its first graph is opened."""

from collections.abc import Callable

from internvl_edge.runtime.backends.session import Session, SessionOptions, TensorInfo
from internvl_edge.runtime.bundle import Bundle
from internvl_edge.runtime.errors import BackendError

__all__ = ["Session", "SessionOptions", "TensorInfo", "open_session", "require_backend"]


def require_backend(backend: str) -> None:
    """Check a backend's name, without loading its library.

    Raises:
        BackendError: there is no such backend.
    """
    if backend not in _OPENERS:
        raise BackendError(f"backend {backend!r}: unknown; choose from {', '.join(_OPENERS)}")


def open_session(backend: str, bundle: Bundle, graph: str, options: SessionOptions | None = None) -> Session:
    """Open `graph` of `bundle` with `backend`; ``auto`` takes the first that can run here.

    Raises:
        BundleError: the bundle has no such graph.
        BackendError: the backend is unknown, not installed, or refuses the graph.
    """
    require_backend(backend)
    return _OPENERS[backend](bundle, graph, options or SessionOptions())


def _open_onnxruntime(bundle: Bundle, graph: str, options: SessionOptions) -> Session:
    from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle.graph_file(graph), options)


_OPENERS: dict[str, Callable[[Bundle, str, SessionOptions], Session]] = {
    "auto": _open_onnxruntime,
    "onnxruntime": _open_onnxruntime,
}
"""Plans are not opened yet: `export --target` builds them, and a device runs them through its own TensorRT."""
