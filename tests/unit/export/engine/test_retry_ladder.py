"""What is given up when memory runs out, in which order, and that it is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.export.engine.build_process import BuilderMemoryError
from internvl_edge.export.engine.retry_ladder import BuildLimits, retry_with_less


class Attempt:
    """A build that fits once its means are small enough."""

    def __init__(self, *, workspace: int = 1 << 60, batch: int = 1 << 30, part: int = 1 << 60) -> None:
        self.limits = (workspace, batch, part)
        self.seen: list[BuildLimits] = []

    def __call__(self, limits: BuildLimits) -> BuildLimits:
        self.seen.append(limits)
        asked = (limits.workspace_bytes or 1 << 40, limits.largest_batch, limits.part_bytes or 1 << 40)
        if any(a > limit for a, limit in zip(asked, self.limits, strict=True)):
            raise BuilderMemoryError("vision.onnx: out of memory")
        return limits


def test_what_fits_gives_up_nothing() -> None:
    assert retry_with_less(Attempt(), BuildLimits(), 100, 10) == (BuildLimits(), [])


def test_scratch_memory_goes_before_the_batch_and_the_batch_before_the_whole_graph() -> None:
    attempt = Attempt(part=30 << 20)
    found, given_up = retry_with_less(attempt, BuildLimits(largest_batch=4), 100 << 20, 10 << 20)
    assert given_up == [
        "workspace 1024 MiB",
        "workspace 256 MiB",
        "largest batch 2",
        "largest batch 1",
        "parts of 50 MiB of weights",
        "parts of 25 MiB of weights",
    ]
    assert found == attempt.seen[-1] == BuildLimits(workspace_bytes=256 << 20, largest_batch=1, part_bytes=25 << 20)


def test_no_more_is_given_up_than_it_takes() -> None:
    _, given_up = retry_with_less(Attempt(batch=2), BuildLimits(largest_batch=8), 100, 10)
    assert given_up[-1] == "largest batch 2"


def test_a_bottom_without_success_says_all_that_was_tried() -> None:
    with pytest.raises(BuilderMemoryError, match=r"out of memory; tried workspace 1024 MiB, .*largest batch 1$"):
        retry_with_less(Attempt(batch=0), BuildLimits(largest_batch=2), 100, 0)


@given(st.integers(1, 64), st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_every_step_is_smaller_and_the_last_part_is_a_block(batch: int, weights: int, block: int) -> None:
    attempt = Attempt(batch=0)
    with pytest.raises(BuilderMemoryError):
        retry_with_less(attempt, BuildLimits(largest_batch=batch), weights, block)
    for before, after in zip(attempt.seen, attempt.seen[1:], strict=False):
        assert after != before
        assert after.largest_batch <= before.largest_batch
    last = attempt.seen[-1]
    assert last.largest_batch == 1
    assert last.part_bytes == (block if block < weights else None)


def test_other_errors_are_not_climbed() -> None:
    def broken(limits: BuildLimits) -> None:
        raise ValueError("not memory")

    with pytest.raises(ValueError, match="not memory"):
        retry_with_less(broken, BuildLimits(), 100, 10)
