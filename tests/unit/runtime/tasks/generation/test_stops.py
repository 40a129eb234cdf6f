"""Stop strings: the first that ends, and letters with which one may begin."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.tasks.generation.stops import check_stops, first_stop, open_letters


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("a stop here", ["stop"], 2),
        ("none", ["stop"], None),
        ("anything", [], None),
        ("xabc", ["abc", "b"], 2),  # "b" is complete before "abc"
        ("xabc", ["bc", "abc"], 1),  # both end together: the longer one
        ("stop stop", ["stop"], 0),
    ],
)
def test_the_first_that_ends_is_found(text: str, stops: list[str], expected: int | None) -> None:
    assert first_stop(text, stops) == expected


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [("a st", ["stop"], 2), ("aa", ["aab"], 2), ("aaa", ["aab"], 2), ("stop", ["stop"], 0), ("abc", [], 0)],
)
def test_letters_that_may_begin_one_are_open(text: str, stops: list[str], expected: int) -> None:
    assert open_letters(text, stops) == expected


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_text_that_comes_letter_by_letter_is_cut_at_the_same_place(text: str, stops: list[str]) -> None:
    given = ""
    for end in range(1, len(text) + 1):
        begin = first_stop(text[:end], stops)
        assert len(given) <= (end if begin is None else begin)
        if begin is not None:
            break
        given = text[: end - open_letters(text[:end], stops)]
    else:
        begin = None
    assert first_stop(text, stops) == begin


@pytest.mark.parametrize("stops", ["stop", ["a", ""], [1]])
def test_what_is_no_list_of_texts_is_refused(stops: Any) -> None:
    with pytest.raises(InputError, match="give a sequence of texts"):
        check_stops(stops)
