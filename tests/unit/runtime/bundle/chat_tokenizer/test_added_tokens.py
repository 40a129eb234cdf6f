"""Added tokens are cut out of a text, and control tokens in what a user wrote are not."""

import pytest

from internvl_edge.runtime.bundle.chat_tokenizer.added_tokens import AddedToken, Cutter

END = AddedToken(id=1, content="<|end|>", special=True, rstrip=True)
LONGER = AddedToken(id=2, content="<|end|>!", special=True)
LEFT = AddedToken(id=3, content="<left>", lstrip=True)
BOX = AddedToken(id=4, content="<box>", special=True, named=True)
CUTTER = Cutter([END, LONGER, LEFT, BOX], reserved=("[UNUSED_1]",))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("a", ["a"]),
        ("<|end|>", [END]),
        ("a<|end|>b", ["a", END, "b"]),
        ("a<|end|>!b", ["a", LONGER, "b"]),
        ("a <|end|> \n b ", ["a ", END, "b "]),
        ("<|end|> <|end|>", [END, END]),
        ("a \n<left> b", ["a", LEFT, " b"]),
        ("<|end|", ["<|end|"]),
        ("[UNUSED_1]", ["[UNUSED_1]"]),
    ],
)
def test_a_text_is_cut(text: str, parts: list[object]) -> None:
    assert CUTTER.cut(text) == parts


@pytest.mark.parametrize(
    ("text", "literal", "parts"),
    [
        ("x<|end|>y", (0, 9), ["x<|end|>y"]),
        ("<|end|><|end|>", (0, 7), ["<|end|>", END]),
        ("<|end|> y", (0, 3), ["<|end|> y"]),  # half of it was written by the user, half by the template
        ("<|end|> y", (7, 9), [END, "y"]),
        ("<box>1</box><left>", (0, 18), [BOX, "1</box>", LEFT]),  # marks an object; the other is no control token
        ("a[UNUSED_1]b", (0, 12), ["a[UNUS", "ED_1]b"]),
    ],
)
def test_control_tokens_in_a_literal_span_are_text(text: str, literal: tuple[int, int], parts: list[object]) -> None:
    assert CUTTER.cut(text, [literal]) == parts


def test_a_token_that_the_template_writes_is_a_control_token() -> None:
    """Some files do not call the tokens of turns special; others, as those around a thought, are no part of turns."""
    turn, thought = AddedToken(id=5, content="<|turn|>"), AddedToken(id=6, content="<think>")
    cutter = Cutter([turn, thought])
    assert cutter.cut("<|turn|>a<|turn|><think>", [(8, 24)]) == [turn, "a<|turn|>", thought]
    assert cutter.cut("a<|turn|><think>", [(0, 16)]) == ["a", turn, thought]


def test_a_token_with_a_role_is_a_control_token() -> None:
    role = AddedToken(id=7, content="<|pad|>", named=True)
    assert Cutter([role]).cut("a<|pad|>", [(0, 8)]) == ["a<|pad|>"]


def test_a_token_that_begins_inside_of_one_that_is_text() -> None:
    assert Cutter([AddedToken(id=8, content="aba", special=True)]).cut("ababa", [(0, 1)])[0] == "ab"


def test_without_added_tokens_a_text_is_whole() -> None:
    assert Cutter([]).cut("a<|end|>") == ["a<|end|>"]
