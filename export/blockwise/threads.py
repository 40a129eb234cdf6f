"""How many threads torch computes with."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod

import torch

from internvl_edge.export.checkpoint import StoredTensor

_SMALL_MODEL = 32 << 20
"""Weights of a model that one thread computes. The example has 8 million, and the smallest InternViT 300.

OpenMP's threads wait for each other behind every operator, and an operator of such a model takes less time than a
thread waits for a core that something else uses too.
"""


@contextmanager
def fitting_threads(tensors: Iterable[StoredTensor]) -> Iterator[None]:
    """Let torch compute on one thread inside the block where a model of `tensors` is small."""
    before = torch.get_num_threads()
    if sum(prod(tensor.shape) for tensor in tensors) <= _SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
