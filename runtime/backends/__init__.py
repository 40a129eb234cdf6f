"""Open graphs with inference libraries behind one protocol; a library is imported when its first graph is opened."""

import os
from functools import partial
from typing import TYPE_CHECKING

from internvl_edge.runtime.backends.session import Opener, Session, SessionOptions, TensorInfo
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import BackendError, InputError

if TYPE_CHECKING:
    from internvl_edge.runtime.backends.onnxruntime import Provider
    from internvl_edge.runtime.backends.openvino import Device

__all__ = ["BACKENDS", "Session", "SessionOptions", "TensorInfo", "open_session", "require_backend"]


def require_backend(backend: str) -> None:
    """Check the name of a backend without loading its library.

    Raises:
        BackendError: there is no such backend.
    """
    if backend not in _OPENERS:
        raise BackendError(f"backend {backend!r}: unknown; choose from {', '.join(_OPENERS)}")


def open_session(backend: str, bundle: Bundle, graph: str, options: SessionOptions | None = None) -> Session:
    """Open `graph` of `bundle` with `backend`; ``auto`` selects the fastest that can run it on this machine.

    Raises:
        BundleError: the bundle has no such graph.
        BackendError: the backend is unknown, not installed, or refuses the graph.
        InputError: no thread, or far more than this machine has cores.
    """
    require_backend(backend)
    _require_threads(options)
    return _OPENERS[backend](bundle, graph, options or SessionOptions())


def _require_threads(options: SessionOptions | None) -> None:
    """Check the number of threads, of which far more than cores are slow: on 2 cores 2 take a second, 128 a minute."""
    cores = os.cpu_count() or 1
    most = max(4 * cores, 16)
    if options is not None and options.threads is not None and not 1 <= options.threads <= most:
        raise InputError(f"threads: {options.threads} on a machine of {cores} cores; give 1 to {most}")


def _open_auto(bundle: Bundle, graph: str, options: SessionOptions) -> Session:
    from internvl_edge.runtime.backends.selection.fastest import open_fastest

    return open_fastest(bundle, graph, options, open_session)


def _open_tensorrt(flavour: str, bundle: Bundle, graph: str, options: SessionOptions) -> Session:
    from internvl_edge.runtime.backends.tensorrt.open import open_tensorrt

    return open_tensorrt(bundle, graph, options, flavour)


def _open_onnxruntime(provider: "Provider", bundle: Bundle, graph: str, options: SessionOptions) -> Session:
    from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle.graph_file(graph), options, provider)


def _open_openvino(device: "Device", bundle: Bundle, graph: str, options: SessionOptions) -> Session:
    from internvl_edge.runtime.backends.openvino import OpenVinoSession

    return OpenVinoSession(bundle.graph_file(graph), options, device, bundle.manifest.graphs[graph].inputs)


_OPENERS: dict[str, Opener] = {
    "auto": _open_auto,
    "tensorrt": partial(_open_tensorrt, "tensorrt"),
    "tensorrt_rtx": partial(_open_tensorrt, "tensorrt_rtx"),
    "onnxruntime": partial(_open_onnxruntime, "cpu"),
    "onnxruntime_cuda": partial(_open_onnxruntime, "cuda"),
    "onnxruntime_tensorrt": partial(_open_onnxruntime, "tensorrt"),
    "openvino": partial(_open_openvino, "CPU"),
    "openvino_gpu": partial(_open_openvino, "GPU"),
}
BACKENDS = tuple(_OPENERS)
