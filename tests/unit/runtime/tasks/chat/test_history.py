"""What a request holds is checked before anything is computed, all faults at once."""

import pytest

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.tasks.chat.history import Request, checked_request, with_frames, with_marks


@pytest.mark.parametrize(
    ("question", "tiles", "history", "unmarked"),
    [
        ("Q", [], None, 0),
        ("Q", [1], None, 1),
        ("Q", [1, 3], [], 2),
        ("<image> Q", [1], None, 0),
        ("<image> and <image>", [1, 1], None, 0),
        ("Q", [1], [("<image>\nP", "A")], 0),
        ("Q", [1, 1], [["<image>\nP", "A"]], 1),
        ("<image> Q", [1, 1], (("<image>\nP", "A"),), 0),
        ("Q", [], [("P", "says <image>")], 0),  # an answer has no pictures
    ],
)
def test_pictures_and_marks_agree(question: str, tiles: list[int], history: object, unmarked: int) -> None:
    request = checked_request(question, tiles, history)
    assert request == Request(question, [tuple(turn) for turn in history or ()], None, unmarked)  # type: ignore


@pytest.mark.parametrize(
    ("question", "pictures", "history", "said"),
    [
        ("<image>", 0, None, "pictures: 0 for 1 <image> marks (all in the question);"),
        ("<image>", 2, None, "pictures: 2 for 1 <image> marks (all in the question);"),
        ("<image><image>", 1, None, "pictures: 1 for 2 <image> marks (all in the question);"),
        ("Q", 1, [("<image><image>", "A")], "pictures: 1 for 2 <image> marks (0 in the question, 2 in the history);"),
        ("<image>", 1, [("<image>", "A")], "pictures: 1 for 2 <image> marks (1 in the question, 1 in the history);"),
    ],
)
def test_pictures_and_marks_that_disagree(question: str, pictures: int, history: object, said: str) -> None:
    with pytest.raises(InputError) as raised:
        checked_request(question, [1] * pictures, history)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ("Q", "history: is str; give a list of (question, answer)"),
        ({"Q": "A"}, "history: is dict; give a list of (question, answer)"),
        (["Q", "A"], "history: no (question, answer) at positions 0 (str), 1 (str); give pairs of texts"),
        ([("Q",)], "history: no (question, answer) at positions 0 (1 entries); give pairs of texts"),
        ([("Q", "A"), ("Q", None)], "history: no (question, answer) at positions 1 (is NoneType); give pairs of texts"),
        (
            [{"role": "user", "content": "Q"}],
            "history: no (question, answer) at positions 0 (dict); give pairs of texts",
        ),
    ],
)
def test_a_history_of_the_wrong_shape(history: object, said: str) -> None:
    with pytest.raises(InputError) as raised:
        checked_request("Q", (), history)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("", "question: is empty; ask something"),
        (" \n", "question: is empty; ask something"),
        (None, "question: is NoneType; give a text"),
        ("\ud800", "question: is no valid Unicode; give a text"),
    ],
)
def test_a_question_that_is_none(question: object, said: str) -> None:
    with pytest.raises(InputError) as raised:
        checked_request(question)
    assert str(raised.value) == said


def test_all_faults_are_in_one_line() -> None:
    with pytest.raises(InputError) as raised:
        checked_request("", [0, 1], [1], 5)
    assert str(raised.value) == (
        "question: is empty; ask something; system: is int; give a text; "
        "history: no (question, answer) at positions 0 (int); give pairs of texts; "
        "pictures: no tiles at positions 0; give each picture one tile or more"
    )


def test_marks_in_front() -> None:
    assert with_marks("Q", 0) == "Q"
    assert with_marks("Q", 2) == "<image>\n<image>\nQ"
    assert with_marks("Q", 1, numbered_from=2) == "<image>\nQ"
    assert with_marks("Q", 2, numbered_from=2) == "Image-2: <image>\nImage-3: <image>\nQ"
    assert with_frames("Q", 2) == "Frame1: <image>\nFrame2: <image>\nQ"
