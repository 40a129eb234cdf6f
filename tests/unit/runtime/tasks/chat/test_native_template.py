"""Jinja templates of checkpoints, in a sandbox."""

import pytest

from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.tasks.chat.native_template import NativeTemplate
from internvl_edge.runtime.tasks.chat.templates import Piece
from tests.unit.runtime.chat_bundles import CHATML

PICTURE = Piece("<image>", picture=True)
OLD = CHATML.replace("<IMG_CONTEXT>", "<image>")
"""Template of the first conversions."""
TRIMMED = CHATML.replace("content['text']", "content['text'] | trim")


def template(source: str = CHATML) -> NativeTemplate:
    return NativeTemplate(source, "<IMG_CONTEXT>", {"bos_token": "<s>", "eos_token": None})


def test_a_conversation() -> None:
    turns = [[PICTURE, Piece("\nQ1")], [Piece("A1")], [Piece("Q2")]]
    assert template().text([Piece("S")], turns) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\nQ1<|im_end|>\n"
        "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_system_message_there_is_none() -> None:
    """The official layout always has one (traps 5, 22)."""
    assert template().text(None, [[Piece("Q")]]) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ([PICTURE, Piece("\n\nQ")], "<IMG_CONTEXT>\n\nQ"),  # one newline is the item's own
        ([PICTURE, Piece("Q")], "<IMG_CONTEXT>Q"),
        ([Piece("a "), PICTURE, Piece(" b")], "a <IMG_CONTEXT> b"),
        ([PICTURE, PICTURE], "<IMG_CONTEXT><IMG_CONTEXT>"),
        ([Piece("a"), PICTURE, Piece("\n"), PICTURE, Piece("\n")], "a<IMG_CONTEXT>\n<IMG_CONTEXT>\n"),
    ],
)
def test_places_of_pictures(message: list[Piece], content: str) -> None:
    found = template().text(None, [message])
    assert found == f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    pieces = template().pieces(None, [message])
    assert pieces is not None
    assert "".join(piece.text for piece in pieces) == found
    assert sum(piece.picture for piece in pieces) == sum(piece.picture for piece in message)


def test_the_placeholder_is_the_templates() -> None:
    assert (template().placeholder, template(OLD).placeholder) == ("<IMG_CONTEXT>", "<image>")
    with pytest.raises(BundleError, match="writes neither <IMG_CONTEXT> nor <image> for a picture"):
        template("{{ messages[0]['role'] }}")


@pytest.mark.parametrize("source", [CHATML, OLD, TRIMMED])
def test_written_texts_are_literal(source: str) -> None:
    turns = [[PICTURE, Piece("\n user <IMG_CONTEXT> \ue000<image> ", literal=True)]]
    pieces = template(source).pieces([Piece("\ue001", literal=True)], turns)
    assert pieces is not None
    assert [piece.text for piece in pieces if piece.literal] == ["\ue001", "user <IMG_CONTEXT> \ue000<image>"]
    assert sum(piece.picture for piece in pieces) == 1
    assert "".join(piece.text for piece in pieces) == template(source).text([Piece("\ue001")], turns)


@pytest.mark.parametrize("change", ["content['text'][:2]", "content['text'].split('x')[-1]"])
def test_places_in_a_changed_text_are_unknown(change: str) -> None:
    assert template(CHATML.replace("content['text']", change)).pieces(None, [[Piece("abcxd", literal=True)]]) is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('only one user') }}", "only one user"),
        ("{{ messages.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "too big"),
    ],
)
def test_a_template_that_fails_is_said_in_one_line(source: str, said: str) -> None:
    with pytest.raises(BundleError, match=f"^chat template: .*{said}.*; correct tokenizer/chat_template.jinja$"):
        template(source)


def test_white_space_around_statements_is_dropped() -> None:
    source = "{% for m in messages %}\n  {% if m['role'] == 'user' %}\n<image>\n  {% endif %}\n{% endfor %}\n."
    assert template(source).text(None, [[Piece("Q")]]) == "<image>\n."


def test_what_transformers_offers_to_templates() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}<image>"
        "{{ {'a': 'é<'} | tojson }}{{ eos_token is defined }}{% endfor %}\n"
    )
    assert template(source).text(None, [[Piece("Q")]]) == '<s><image>{"a": "é<"}False'
