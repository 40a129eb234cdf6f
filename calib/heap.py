"""Return the pages of freed memory to the system where the C library can, as glibc does."""

import ctypes


def trim_heap() -> None:
    """Release free pages in malloc's heap.

    Freed activations of a few MB between small objects that stay leave gaps that later activations do not fit into.
    Without this call, running a tower of 48 blocks one at a time ends with 0.5 GB more memory than one of 12 blocks.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
