"""Capture the work of a stream as a CUDA graph and launch it as one. pycuda has no calls for this."""

import ctypes
from collections.abc import Callable

from internvl_edge.runtime.backends.cuda.driver import CudaError
from internvl_edge.runtime.backends.cuda.libcuda import call

_THREAD_LOCAL = 1
"""Value of CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, in which other threads may allocate memory meanwhile."""


def capture(stream: int, enqueue: Callable[[], None]) -> int:
    """Return the executable graph of the work that `enqueue` adds to the stream with this handle.

    Raises:
        CudaError: some of the work cannot be captured.
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
    """Launch a captured graph on the stream with this handle."""
    call("cuGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))


def drop(executable: int) -> None:
    """Free a captured graph."""
    call("cuGraphExecDestroy", ctypes.c_void_p(executable))


def _abandon(stream: int) -> None:
    """End a failed capture, without which the stream takes no other work; a second error of the driver is ignored."""
    graph = ctypes.c_void_p()
    try:
        call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
    except CudaError:
        return
    if graph.value:
        call("cuGraphDestroy", graph)
