"""A conversation in the terminal or over a pipe: its questions, its commands, and what is printed."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.commands.output.printing import show
from internvl_edge.runtime.errors import EdgeError, InputError
from internvl_edge.runtime.inputs.pictures.arguments import PICTURE_MARK
from internvl_edge.runtime.inputs.pictures.decode import check_pictures
from internvl_edge.runtime.inputs.read import find_pictures
from internvl_edge.runtime.latency.interrupt import STOPPED, finish_on_interrupt
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.outputs.files import write_text
from internvl_edge.runtime.outputs.strict_json import json_line, json_text
from internvl_edge.runtime.stages import Stages
from internvl_edge.runtime.tasks.chat.history import with_frames, with_marks

if TYPE_CHECKING:
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tasks.chat.chat import ChatReply

HELP = """\
/image FILE   show a picture with the next question
/reset        begin anew, with the pictures of the command line
/save FILE    write the conversation to a file, as JSON
/help         print this
Ctrl-C stops an answer, Ctrl-D ends the conversation."""
_PROMPT = "> "


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a video, as one picture of a question."""

    name: str
    picture: object

    def content(self) -> object:
        """Return the picture."""
        return self.picture


class Talk:
    """A conversation with a model: its turns so far, and the pictures of the next question."""

    def __init__(
        self,
        model: "InternVL",
        pictures: Sequence[object],
        frames: Sequence[Frame],
        settings: Mapping[str, Any],
        stages: Stages,
    ) -> None:
        """Begin a conversation.

        Args:
            model: an opened bundle.
            pictures: pictures of the first question.
            frames: frames of a video, which stand behind the pictures in it.
            settings: arguments of `InternVL.chat`.
            stages: collector of times.
        """
        self._model, self._pictures, self._frames = model, tuple(pictures), tuple(frames)
        self._settings, self._monitor = dict(settings), Monitor(stages=stages)
        self.reply: ChatReply | None = None
        """The last answer of the history."""
        self.last: ChatReply | None = None
        """The last answer, which may have been stopped before its first word."""
        self.reset()

    def reset(self) -> None:
        """Begin anew, with the first pictures."""
        self.reply = None
        self._next, self._next_frames = self._pictures, self._frames

    def add(self, pictures: Sequence[object]) -> None:
        """Show pictures with the next question."""
        self._next += tuple(pictures)

    def pieces(self, question: str, cancelled: Callable[[], bool]) -> Iterator[str]:
        """Yield the answer to the next question piece by piece; `cancelled` is asked between tokens."""
        images = [*self._next, *self._next_frames]
        settings = self._settings | {"history": self.reply.history if self.reply is not None else None}
        settings["max_tiles"] = [self._settings["max_tiles"]] * len(self._next) + [1] * len(self._next_frames)
        known = len(self.reply.history.pictures) if self.reply is not None else 0
        if (known or self._next_frames) and PICTURE_MARK not in question:  # else the request puts pictures first
            question = with_marks(with_frames(question, len(self._next_frames)), len(self._next), known + 1)
        more = settings | {"cancelled": cancelled, "monitor": self._monitor}
        if self._settings["num_beams"] > 1:
            reply = self._model.chat(question, images, **more)
            yield reply.text
        else:
            stream = self._model.chat_stream(question, images, **{k: v for k, v in more.items() if k != "num_beams"})
            yield from stream
            reply = stream.reply
        self.last = reply
        if reply.finish_reason == "cancelled" and not reply.text:
            return  # nothing was said: the next question is this one's, with its pictures
        self.reply = reply
        self._next, self._next_frames = (), ()

    def saved(self) -> str:
        """Return the conversation as JSON with the fields of a question file: `images` and `history`."""
        history = self.reply.history if self.reply is not None else []
        names = [picture.name for picture in self.reply.history.pictures] if self.reply is not None else []
        return json_text({"system": self._settings["system"], "images": names, "history": history}) + "\n"


def ask_all(talk: Talk, questions: Iterable[str], as_json: bool) -> None:
    """Print the answer to each question; Ctrl-C ends it.

    Raises:
        EdgeError: a question that the model does not take.
    """
    for question in questions:
        with finish_on_interrupt() as stop:
            _answer(talk, question, stop.is_set, as_json)
        if stop.is_set():
            click.get_current_context().exit(STOPPED)


def talk_in_terminal(talk: Talk) -> None:
    """Read questions from the terminal until it ends; errors are printed, and the conversation goes on."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 -- `input` edits lines and remembers them once it is imported

    show("Ask something, or /help. Ctrl-C stops an answer, Ctrl-D ends the conversation.", to_stderr=True)
    while (line := _read_line()) is not None:
        try:
            if _is_command(line):
                _obey(talk, line)
            elif line.strip():
                with finish_on_interrupt() as stop:
                    _answer(talk, line, stop.is_set, as_json=False)
                if stop.is_set():
                    show("(stopped)", to_stderr=True)
        except EdgeError as error:
            show(f"Error: {error}", to_stderr=True)
        except KeyboardInterrupt:  # the second one of an answer, which did not stop at a token
            show("\n(stopped)", to_stderr=True)


def questions_of_stdin(talk: Talk) -> Iterator[str]:
    """Yield the questions of the standard input, one a line; lines with commands of `HELP` are obeyed."""
    for line in sys.stdin:
        if _is_command(line):
            _obey(talk, line)
        elif line.strip():
            yield line.strip("\r\n")


def _answer(talk: Talk, question: str, cancelled: Callable[[], bool], as_json: bool) -> None:
    """Print one answer, piece by piece as it is written, or as a line of JSON."""
    for piece in talk.pieces(question, cancelled):
        if not as_json:
            show(piece, newline=False)
    reply = talk.last
    if as_json and reply is not None:
        row = {
            "question": question,
            "answer": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        show(json_line(row).encode(), newline=False)
    else:
        show("")


def _read_line() -> str | None:
    """Return the next line of the terminal; None at its end. Ctrl-C gives up a line."""
    while True:
        try:
            if sys.stdout.isatty():
                return input(_PROMPT)
            show(_PROMPT, newline=False, to_stderr=True)
            return input()
        except KeyboardInterrupt:
            show("\nCtrl-D ends the conversation.", to_stderr=True)
        except EOFError:
            show("", to_stderr=True)
            return None


def _is_command(line: str) -> bool:
    return line.lstrip().startswith("/")


def _obey(talk: Talk, line: str) -> None:
    """Carry out a command of the conversation.

    Raises:
        InputError: there is no such command, or its file cannot be used.
    """
    name, _, rest = line.strip().partition(" ")
    file = rest.strip().strip("'\"")
    match name:
        case "/help":
            show(HELP, to_stderr=True)
        case "/reset":
            talk.reset()
        case "/image" if file:
            pictures = find_pictures([Path(file).expanduser()])
            check_pictures(pictures)
            talk.add(pictures)
        case "/save" if file:
            path = write_text(Path(file).expanduser(), talk.saved())
            show(f"{path}: saved", to_stderr=True)
        case "/image" | "/save":
            raise InputError(f"{name}: no file named; write {name} FILE")
        case _:
            raise InputError(f"{name}: no such command; /help lists them")
