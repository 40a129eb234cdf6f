"""Torch computes small models on one thread, and others on as many as before."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from internvl_edge.export.blockwise.threads import fitting_threads


@dataclass
class Stored:
    shape: tuple[int, ...]


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("shapes", "threads"),
    [
        ([], 1),
        ([(8_000_000,)], 1),
        ([(4096, 4096), (4096, 4096)], 1),
        ([(4096, 4096), (4096, 4096), (1,)], 3),
        ([(6_000_000_000,)], 3),
    ],
)
def test_threads_follow_from_all_weights_together(shapes: list[tuple[int, ...]], threads: int) -> None:
    tensors: Any = [Stored(shape) for shape in shapes]
    with fitting_threads(tensors):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 3


def test_an_error_leaves_the_threads_as_they_were() -> None:
    with pytest.raises(KeyboardInterrupt), fitting_threads([]):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 3
