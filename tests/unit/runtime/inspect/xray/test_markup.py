"""Texts in HTML: escaped once, and never twice."""

from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.inspect.xray.markup import Markup, filled, joined


def test_texts_are_escaped_and_markup_is_not() -> None:
    assert filled("<b>{}</b>{x}", "a<b & 'c'", x=Markup("<i>")) == "<b>a&lt;b &amp; &#x27;c&#x27;</b><i>"
    assert joined(["<", Markup("<br>"), ">"], ", ") == "&lt;, <br>, &gt;"
    assert filled("{:.2f} {}", 1.5, None) == "1.50 None"


@given(st.text())
def test_what_is_filled_in_can_be_filled_in_again(text: str) -> None:
    once = filled("{}", text)
    assert isinstance(once, Markup)
    assert not set("<>\"'") & set(once)
    assert filled("{}", once) == joined([once]) == once
