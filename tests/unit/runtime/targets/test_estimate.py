"""Predictions of a build, and the limits that are held against them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.estimate import Limits, host_peak_bytes, part_bytes, plan_seconds, require_room

GIB = 1 << 30


def test_a_build_takes_the_library_and_a_bit_more_than_twice_its_weights() -> None:
    assert host_peak_bytes(0) == 700 << 20
    assert host_peak_bytes(10 * GIB) == (700 << 20) + 21 * GIB
    assert plan_seconds(0) == 3.0
    assert plan_seconds(12 * 10**9) == 103.0


def test_without_limits_a_graph_is_one_part() -> None:
    assert part_bytes(Limits()) is None
    require_room(Limits(), {"vision": 1 << 60}, "a block", "or so")


@given(st.integers(1 << 30, 1 << 40))
def test_a_part_within_the_limit_is_predicted_to_stay_within_it(limit: int) -> None:
    part = part_bytes(Limits(host_bytes=limit))
    assert part is not None
    assert limit - 2 <= host_peak_bytes(part) <= limit + 2


def test_a_limit_below_the_library_allows_the_smallest_part() -> None:
    assert part_bytes(Limits(host_bytes=1)) == 1


def test_graphs_beyond_the_limit_are_named_with_one_that_suffices() -> None:
    require_room(Limits(host_bytes=3 * GIB), {"text": GIB}, "its largest block", "or quantize")
    with pytest.raises(EngineError) as caught:
        require_room(Limits(host_bytes=2 * GIB), {"vision": 2 * GIB, "query": GIB}, "its largest block", "or quantize")
    assert str(caught.value) == (
        "--max-host-mem 2GiB: building its largest block is predicted to take more (vision 4.9GiB, query 2.8GiB); give"
        " 4.9GiB or more, or quantize"
    )
