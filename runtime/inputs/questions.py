"""Read questions about pictures, with their expected answers, from a table: one question a row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.archives import Archive
from internvl_edge.runtime.inputs.files.formats import Kind, kind_of
from internvl_edge.runtime.inputs.files.names import in_one_line, is_folder, is_there, is_unicode
from internvl_edge.runtime.inputs.pictures.arguments import PICTURE_MARK
from internvl_edge.runtime.inputs.pictures.source import ArchivedPicture, SourcePicture
from internvl_edge.runtime.inputs.read import archive_beside, faults_text, named_picture
from internvl_edge.runtime.inputs.tables.captions import name_fault, texts_of
from internvl_edge.runtime.inputs.tables.tables import TableRow, read_table

QUESTION_KEY = "question"
_TABLES: tuple[Kind, ...] = ("lines", "json", "csv", "tsv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question with its pictures, the turns before it, and the answers that are right."""

    name: str
    """Its `id`, or the number of its row."""
    text: str
    pictures: tuple[SourcePicture, ...] = ()
    """Pictures in the order of the marks ``<image>`` in history and question; without marks they come first."""
    history: tuple[tuple[str, str], ...] = ()
    answers: tuple[str, ...] = ()
    """Accepted answers; the first is the one whose probability is measured. Empty where none is known."""
    kind: str = ""


def holds_questions(source: Path) -> bool:
    """Return whether a table has a field `question` in its first row that can be read.

    Raises:
        InputError: the table cannot be read.
    """
    if is_folder(source) or not is_there(source) or kind_of(source) not in _TABLES:
        return False
    first = next((row for row in read_table(source) if row.fault is None), None)
    return first is not None and QUESTION_KEY in first.fields


def read_questions(source: Path) -> list[Question]:
    """Return the questions of a table in order; no picture is read.

    A row has `question`, and may have `images` (names of files in the .zip of the same name beside the table, or
    relative to its folder), `history` (a list of question and answer), `answer` (a text or a list of accepted ones),
    `kind` and `id`.

    Raises:
        InputError: the table cannot be read, has no row, or has faulty ones, all of them named.
    """
    shown = in_one_line(source)
    if not is_there(source):
        raise InputError(f"{shown}: no such file; give a table of questions (docs/eval.md)")
    if is_folder(source) or kind_of(source) not in _TABLES:
        raise InputError(f"{shown}: no table; give questions as a .jsonl, .json, .csv or .tsv (docs/eval.md)")
    archive = archive_beside(source)
    faults: list[tuple[int, str]] = []
    found = []
    for row in read_table(source):
        wrong = [row.fault] if row.fault is not None else list(_faults(row.fields))
        question = None if wrong else _question(source, row, archive)
        wrong += _absent(question, archive) if question is not None else []
        if wrong:
            faults.append((row.number, "; ".join(wrong)))
        elif question is not None:
            found.append(question)
    if faults:
        raise InputError(f"{shown}: {faults_text(kind_of(source), faults)}; repair or remove them (docs/eval.md)")
    if not found:
        raise InputError(f"{shown}: no question found; give a table with a `question` in each row (docs/eval.md)")
    return found


def _faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the fields of a row."""
    text = fields.get(QUESTION_KEY)
    if not isinstance(text, str) or not text.strip():
        yield "no `question`" if text is None or text == "" else "`question` holds no text"
    images = fields.get("images")
    names = _listed(images)
    if names is None:
        yield "`images` is no list of names"
    else:
        yield from (f"`images` {fault}" for fault in dict.fromkeys(map(name_fault, names)) if fault)
    history = fields.get("history")
    if not _is_history(history):
        yield "`history` is no list of [question, answer]"
    elif isinstance(text, str) and names is not None:
        marks = sum(turn[0].count(PICTURE_MARK) for turn in history or ()) + text.count(PICTURE_MARK)
        if marks and marks != len(names):
            yield f"{len(names)} pictures for {marks} {PICTURE_MARK}"
    answer = fields.get("answer")
    if answer is not None and not texts_of(answer):
        yield "`answer` is no text and no list of texts"
    if not isinstance(fields.get("kind", ""), str):
        yield "`kind` is no text"
    if not all(map(is_unicode, _texts(fields))):
        yield "holds text that is no UTF-8"


def _question(source: Path, row: TableRow, archive: Archive | None) -> Question:
    """Return the question of a row whose fields are right."""
    fields = row.fields
    return Question(
        name=str(fields.get("id", row.number)),
        text=fields[QUESTION_KEY],
        pictures=tuple(named_picture(source, name, archive) for name in _listed(fields.get("images")) or ()),
        history=tuple((asked, answered) for asked, answered in fields.get("history") or ()),
        answers=tuple(texts_of(fields.get("answer")) or ()),
        kind=fields.get("kind", ""),
    )


def _absent(question: Question, archive: Archive | None) -> list[str]:
    """Return a fault that names the pictures that are neither in the archive nor on disk."""
    gone = [
        in_one_line(picture.name)
        for picture in question.pictures
        if not (
            archive is not None and archive.has(picture.member)
            if isinstance(picture, ArchivedPicture)
            else is_there(Path(picture.name))
        )
    ]
    return [f"no such picture: {', '.join(gone)}"] if gone else []


def _listed(images: object) -> list[Any] | None:
    """Return the names in `images`, which may be one name; None for anything but names."""
    if images is None:
        return []
    if isinstance(images, str):
        return [images]
    return list(images) if isinstance(images, list) else None


def _is_history(history: object) -> bool:
    return history is None or (
        isinstance(history, list)
        and all(
            isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
            for turn in history
        )
    )


def _texts(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of a row that go through a tokenizer or into a report."""
    history = fields.get("history")
    parts = [fields.get(QUESTION_KEY), *(texts_of(fields.get("answer")) or ()), fields.get("kind"), fields.get("id")]
    if isinstance(history, list):
        parts += [text for turn in history if isinstance(turn, list) for text in turn]
    yield from (text for text in parts if isinstance(text, str))
