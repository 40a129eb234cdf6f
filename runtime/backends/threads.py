"""Decide how many threads of a processor run a graph."""

_SMALL_WORK = 16 << 20
"""Number of multiplications, weights times rows, that one thread computes in a few milliseconds.

A graph has about a hundred operators. At the end of each all threads wait for the slowest, which may be asleep on a
machine that other programs use too. The example's graphs have 1 to 4 million weights, so that up to four pictures in a
call run on one thread.
"""
ALL_CORES = 0
"""Number of threads with which ONNX Runtime uses all cores."""


def threads_for(weights: int, rows: int) -> int:
    """Return the number of threads for calls of `rows` rows of a graph with `weights` weights; 0 means all cores."""
    return 1 if weights * rows <= _SMALL_WORK else ALL_CORES
