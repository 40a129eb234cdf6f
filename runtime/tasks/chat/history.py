"""Check the texts of a request to a chat model, and that pictures and their marks agree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.findings import listed
from internvl_edge.runtime.tasks.chat.templates import MARK

Turn = tuple[str, str]
"""A question and its answer. The question holds the marks of its pictures."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checked question with its history."""

    question: str
    history: list[Turn]
    system: str | None
    unmarked: int
    """Number of pictures without a mark; the question has no marks then."""


def with_marks(question: str, pictures: int, numbered_from: int | None = None) -> str:
    """Return a question with the marks of pictures in front, one a line.

    `numbered_from` is the number of the first one where several are numbered, as the model cards do.
    """
    numbers = range(numbered_from, numbered_from + pictures) if numbered_from is not None and pictures > 1 else None
    labels = [f"Image-{number}: " for number in numbers] if numbers is not None else [""] * pictures
    return "".join(f"{label}{MARK}\n" for label in labels) + question


def with_frames(question: str, frames: int) -> str:
    """Return a question with the marks of the frames of a video in front, as the model cards write them."""
    return "".join(f"Frame{number}: {MARK}\n" for number in range(1, frames + 1)) + question


def checked_request(
    question: object, tiles: Sequence[int] = (), history: object = None, system: object = None
) -> Request:
    """Return a request whose texts are texts and whose marks are as many as its pictures.

    `tiles` are the numbers of tiles of all pictures of the conversation.

    Raises:
        InputError: with all findings.
    """
    turns = [*history] if isinstance(history, list | tuple) else []
    findings = [*_text_findings(question, system), *_history_findings(history)]
    if flat := [str(index) for index, count in enumerate(tiles) if count < 1]:
        findings.append(f"pictures: no tiles at positions {', '.join(flat)}; give each picture one tile or more")
    if findings:
        raise InputError("; ".join(findings))
    request = Request(str(question), [(asked, answer) for asked, answer in turns], None, 0)
    before = sum(asked.count(MARK) for asked, _ in request.history)
    now = request.question.count(MARK)
    unmarked = 0 if now else len(tiles) - before
    if unmarked < 0 or (now and before + now != len(tiles)):
        where = f"{now} in the question, {before} in the history" if before else "all in the question"
        raise InputError(
            f"pictures: {len(tiles)} for {before + now} {MARK} marks ({where});"
            " give one picture for each mark, those of the history too, or leave out the marks"
        )
    return Request(request.question, request.history, None if system is None else str(system), unmarked)


def _text_findings(question: object, system: object) -> Iterator[str]:
    if wrong := _fault(question):
        yield f"question: {wrong}; give a text"
    elif not str(question).strip():
        yield "question: is empty; ask something"
    if system is not None and (wrong := _fault(system)):
        yield f"system: {wrong}; give a text"


def _history_findings(history: object) -> Iterator[str]:
    if history is None:
        return
    if not isinstance(history, list | tuple):
        yield f"history: is {type(history).__name__}; give a list of (question, answer)"
        return
    wrong = [(str(index), fault) for index, turn in enumerate(history) if (fault := _turn_fault(turn))]
    if wrong:
        yield f"history: no (question, answer) at positions {listed(wrong)}; give pairs of texts"


def _turn_fault(turn: object) -> str:
    if not isinstance(turn, list | tuple):
        return type(turn).__name__
    if len(turn) != 2:
        return f"{len(turn)} entries"
    return next(filter(None, map(_fault, turn)), "")


def _fault(text: object) -> str:
    """Return why an object is no text, or an empty string."""
    if not isinstance(text, str):
        return f"is {type(text).__name__}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is no valid Unicode"
    return ""
