"""Choose the number of threads that torch computes with."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod

import torch

from internvl_edge.export.checkpoint import StoredTensor

_SMALL_MODEL = 32 << 20
"""Most weights of a model that one thread computes. The example has 8 million, the smallest InternViT 300 million.

OpenMP's threads wait for each other after every operator. On a busy machine, waiting for a core takes longer than an
operator of such a small model.
"""


@contextmanager
def fitting_threads(tensors: Iterable[StoredTensor]) -> Iterator[None]:
    """Limit torch to one thread inside the ``with`` block if the model of `tensors` is small."""
    before = torch.get_num_threads()
    if sum(prod(tensor.shape) for tensor in tensors) <= _SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
