"""How many threads of a processor a graph is worth."""

_SMALL_WORK = 16 << 20
"""Products for each row of the input that one thread does in a few milliseconds.

A graph has some hundred operators, and a thread that waits for the others at the end of each takes as long as the
slowest of them, which on a machine that others use too may be asleep. The example's graphs have 1 to 4 million weights:
up to four pictures in a call run on one thread.
"""
ALL_CORES = 0
"""ONNX Runtime's own choice."""


def threads_for(weights: int, rows: int) -> int:
    """Return how many threads take a graph of so many `weights` with `rows` in a call; 0: one for each core."""
    return 1 if weights * rows <= _SMALL_WORK else ALL_CORES
