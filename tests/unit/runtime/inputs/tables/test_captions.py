"""What a row says: its picture, its captions by language, its class, and what is wrong with it."""

from typing import Any

import pytest

from internvl_edge.runtime.inputs.tables.captions import CAPTION_KEYS, FILE_KEYS, file_of, labels_of, texts_of


@pytest.mark.parametrize("key", FILE_KEYS)
def test_each_name_of_the_field_is_taken(key: str) -> None:
    assert file_of({"other": 1, key: "a.png"}) == ("a.png", "")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "no `file`, it has nothing"),
        ({"file": None, "b": 1}, "no `file`, it has file, b"),
        (dict.fromkeys("abcdefgh", 1), "no `file`, it has a, b, c, d, e, f"),
        ({"file": 3}, "`file` is no name of a file"),
        ({"file_name": "  "}, "`file_name` is no name of a file"),
        ({"file": "https://a/b.png"}, "`file` is an address, which no command fetches"),
        ({"file": "a\0b"}, "`file` is no name that a file can have"),
        ({"file": "a\ud800"}, "`file` is no name that a file can have"),
    ],
)
def test_why_a_row_has_no_picture(fields: dict[str, Any], why: str) -> None:
    assert file_of(fields) == (None, why)


def test_the_first_field_that_is_there_counts_and_bytes_of_no_utf8_are_a_name() -> None:
    assert file_of({"file": None, "file_name": "b.png", "filename": "c.png"}) == ("b.png", "")
    assert file_of({"file": "a\udce9.png"}) == ("a\udce9.png", "")


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a cat", {"": ("a cat",)}),
        (["a cat", " ", "a pet"], {"": ("a cat", "a pet")}),
        ([{"raw": "a cat", "id": 3}], {"": ("a cat",)}),
        ({"en": "a cat", "de": ["eine Katze", ""], "fr": None, "es": ""}, {"en": ("a cat",), "de": ("eine Katze",)}),
        ("", {}),
    ],
)
@pytest.mark.parametrize("key", CAPTION_KEYS)
def test_captions_by_language(key: str, value: object, texts: dict[str, tuple[str, ...]]) -> None:
    labels, fault = labels_of({key: value})
    assert (labels.texts, labels.group, labels.unused, fault) == (texts, None, (), "")


def test_the_first_field_that_holds_a_text_counts_and_others_are_reported() -> None:
    labels, fault = labels_of({"label": 3, "caption": "", "text": "a", "captions": "b"})
    assert (labels.texts, labels.unused, fault) == ({"": ("a",)}, ("label is a number",), "")


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        (True, "caption is true or false"),
        (1.5, "caption is a number"),
        ({"en": 3}, "caption is an object without texts"),
        ([3], "caption is a list without texts"),
        ([{"tokens": []}], "caption is a list without texts"),
        (b"a", "caption is bytes"),
    ],
)
def test_a_field_without_texts_is_reported(value: object, reported: str) -> None:
    labels, _fault = labels_of({"caption": value})
    assert (labels.texts, labels.unused) == ({}, (reported,))


@pytest.mark.parametrize(
    ("group", "found", "unused"),
    [("cat", "cat", ()), (7, "7", ()), (True, None, ("group is true or false",)), ([1], None, ("group is a list",))],
)
def test_a_class_is_a_text_or_a_number(group: object, found: str | None, unused: tuple[str, ...]) -> None:
    labels, _fault = labels_of({"group": group})
    assert labels.group == found
    assert [text.startswith(begin) for text, begin in zip(labels.unused, unused, strict=True)] == [True] * len(unused)


@pytest.mark.parametrize("fields", [{"text": "a\ud800"}, {"group": "a\ud800"}])
def test_a_lone_surrogate_is_a_fault(fields: dict[str, Any]) -> None:
    assert labels_of(fields)[1] == "holds text that is no UTF-8"


@pytest.mark.parametrize(
    ("value", "texts"), [("a", ["a"]), (("a", "b"), ["a", "b"]), ([], []), (3, None), (None, None), (["a", 3], None)]
)
def test_a_field_of_texts(value: object, texts: list[str] | None) -> None:
    assert texts_of(value) == texts
