"""Questions of a table: their pictures, history and answers, and all that is wrong with one at once."""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.source import content_of
from internvl_edge.runtime.inputs.questions import holds_questions, read_questions
from tests.project import ROOT

EXAMPLE = ROOT / "examples" / "chat" / "data"


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 3), grey).save(buffer, "png")
    return buffer.getvalue()


def table(folder: Path, rows: Sequence[object]) -> Path:
    path = folder / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_example_is_read_whole() -> None:
    found = read_questions(EXAMPLE / "test.jsonl")
    assert len(found) == 846
    assert sum(len(question.pictures) for question in found) > 800
    assert len({question.kind for question in found}) == 12
    first = found[0]
    assert (first.name, first.text, first.answers, first.kind) == (
        "t0000",
        "<image>\nWhat subgroup is this?",
        ("fruit",),
        "subgroup",
    )
    assert content_of(first.pictures[0])[:4] == b"\x89PNG"
    dialog = next(question for question in found if question.kind == "dialog")
    assert dialog.history
    assert all("<image>" in asked for asked, _ in dialog.history[:1])


def test_every_field_but_the_question_may_be_missing(tmp_path: Path) -> None:
    (question,) = read_questions(table(tmp_path, [{"question": "Why?"}]))
    assert (question.name, question.text, question.pictures, question.history) == ("1", "Why?", (), ())
    assert (question.answers, question.kind) == ((), "")


def test_pictures_come_from_the_archive_of_the_same_name_and_else_from_the_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "q.zip", "w") as archive:
        archive.writestr("in.png", png(1))
    (tmp_path / "out.png").write_bytes(png(2))
    rows = [{"question": "Alike?", "images": ["in.png", "out.png"]}, {"question": "And?", "images": "in.png"}]
    two, one = read_questions(table(tmp_path, rows))
    assert [content_of(picture) for picture in two.pictures] == [png(1), png(2)]
    assert [content_of(picture) for picture in one.pictures] == [png(1)]


def test_several_answers_are_all_accepted(tmp_path: Path) -> None:
    (question,) = read_questions(table(tmp_path, [{"question": "Which?", "answer": ["red", "scarlet"]}]))
    assert question.answers == ("red", "scarlet")


def test_all_faulty_lines_are_named_at_once(tmp_path: Path) -> None:
    rows = [
        {"question": "fine"},
        {"images": []},
        {"question": " "},
        {"question": 3},
        {"question": "a", "history": [["b"]]},
        {"question": "a", "history": "b"},
        {"question": "a", "answer": 4},
        {"question": "a", "answer": []},
        {"question": "a", "images": 7},
        {"question": "a", "images": ["gone.png", "http://x/y.png"]},
        {"question": "<image> <image>", "images": ["a.png"]},
        {"question": "a", "kind": 5, "answer": True},
        {"question": "a", "images": ["gone.png"]},
        {"question": "\ud800"},
    ]
    with pytest.raises(InputError) as caught:
        read_questions(table(tmp_path, rows))
    assert "line 2: no `question`" in str(caught.value)
    assert "lines 3, 4: `question` holds no text" in str(caught.value)
    assert "lines 5, 6: `history` is no list of [question, answer]" in str(caught.value)
    assert "lines 7, 8: `answer` is no text and no list of texts" in str(caught.value)
    assert re.search(r"and 6 more; repair or remove them \(docs/eval.md\)$", str(caught.value))


@pytest.mark.parametrize(
    ("row", "finding"),
    [
        ({"question": "a", "images": 7}, "`images` is no list of names"),
        ({"question": "a", "images": ["http://x/y.png"]}, "`images` is an address, which no command fetches"),
        ({"question": "<image> <image>", "images": ["q.jsonl"]}, "1 pictures for 2 <image>"),
        ({"question": "a", "history": [["<image>", "b"]], "images": []}, "0 pictures for 1 <image>"),
        ({"question": "a", "kind": 5, "answer": True}, "no list of texts; `kind` is no text"),
        ({"question": "a", "images": ["gone.png"]}, r"no such picture: \S*gone.png"),
        ({"question": "\ud800"}, "holds text that is no UTF-8"),
        ("text", "line 1: "),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, row: object, finding: str) -> None:
    with pytest.raises(InputError, match=rf"q\.jsonl: line 1: .*{finding}|q\.jsonl: {finding}"):
        read_questions(table(tmp_path, [row]))


@pytest.mark.parametrize("name", ["gone.jsonl", "photo.png", "folder", "rows.parquet"])
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "photo.png").write_bytes(png(1))
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=rf"{name}: no (such file|table); give"):
        read_questions(tmp_path / name)
    assert not holds_questions(tmp_path / name)


def test_an_empty_table_has_no_question(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="no question found"):
        read_questions(tmp_path / "q.jsonl")


def test_questions_are_told_from_captions(tmp_path: Path) -> None:
    assert holds_questions(EXAMPLE / "test.jsonl")
    assert not holds_questions(ROOT / "examples" / "emoji" / "data" / "test.jsonl")
    (tmp_path / "q.jsonl").write_text('{broken\n{"question": "a"}\n')
    assert holds_questions(tmp_path / "q.jsonl")
