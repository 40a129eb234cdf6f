"""CUDA graphs: what a stream is given, captured once and launched as one. pycuda has no calls for them."""

import ctypes
from collections.abc import Callable

from internvl_edge.runtime.backends.cuda.driver import CudaError
from internvl_edge.runtime.backends.cuda.libcuda import call

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate memory meanwhile."""


def capture(stream: int, enqueue: Callable[[], None]) -> int:
    """Return the executable graph of what `enqueue` puts into the stream of that handle.

    Raises:
        CudaError: a call in it cannot be captured.
    """
    call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))
    try:
        enqueue()
    except BaseException:
        _abandon(stream)
        raise
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
    try:
        call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    finally:
        call("cuGraphDestroy", graph)
    return int(executable.value or 0)


def launch(executable: int, stream: int) -> None:
    """Put a captured graph into the stream of that handle."""
    call("cuGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))


def drop(executable: int) -> None:
    """Free a captured graph."""
    call("cuGraphExecDestroy", ctypes.c_void_p(executable))


def _abandon(stream: int) -> None:
    """End a capture that failed: the stream takes nothing else until then, and may say once more what was wrong."""
    graph = ctypes.c_void_p()
    try:
        call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
    except CudaError:
        return
    if graph.value:
        call("cuGraphDestroy", graph)
