"""Which profile of a plan takes arrays of given shapes."""

import re

import pytest

from internvl_edge.runtime.backends.tensorrt.plans.profiles import choose_profile
from internvl_edge.runtime.errors import InputError

PROMPT = {"ids": ((1, 2), (1, 4), (8, 16)), "past": ((1, 0), (1, 0), (8, 0))}
STEP = {"ids": ((1, 1), (1, 1), (8, 1)), "past": ((1, 1), (1, 9), (8, 40))}


@pytest.mark.parametrize(
    ("ids", "past", "expected"), [((1, 2), (1, 0), 0), ((8, 16), (8, 0), 0), ((1, 1), (1, 1), 1), ((8, 1), (8, 40), 1)]
)
def test_the_first_that_holds_all_shapes(ids: tuple[int, int], past: tuple[int, int], expected: int) -> None:
    assert choose_profile("decoder", (PROMPT, STEP), {"ids": ids, "past": past}) == expected


def test_the_first_of_two_that_fit() -> None:
    assert choose_profile("decoder", (STEP, STEP), {"ids": (1, 1), "past": (1, 1)}) == 0


def test_a_graph_without_dynamic_axes_has_none() -> None:
    assert choose_profile("vision", (), {"x": (1, 3)}) == 0


def test_what_is_beyond_all_says_what_each_takes() -> None:
    reported = (
        "graph decoder: ids [9, 1], past [9, 3] is beyond its plan, which takes ids [1, 2] to [8, 16], past [1, 0] to"
        " [8, 0]; or ids [1, 1] to [8, 1], past [1, 1] to [8, 40]; give fewer rows or tokens at once"
    )
    with pytest.raises(InputError, match=re.escape(reported)):
        choose_profile("decoder", (PROMPT, STEP), {"ids": (9, 1), "past": (9, 3)})


def test_only_the_inputs_that_lie_outside_are_named() -> None:
    with pytest.raises(InputError, match=re.escape("graph decoder: past [1, 41] is beyond its plan")):
        choose_profile("decoder", (STEP,), {"ids": (1, 1), "past": (1, 41)})
