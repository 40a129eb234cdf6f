"""The conversation templates of the official layout, by name (CHAT.md 5)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.inputs.pictures.arguments import PICTURE_MARK

MARK = PICTURE_MARK
"""Text that stands for a picture in a question."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt."""

    text: str
    literal: bool = False
    """Whether a caller wrote it, so that control tokens in it are plain text."""
    picture: bool = False
    """Whether it is the place of a picture; its text is a placeholder then."""


Message = Sequence[Piece]
"""A message of the conversation. Its pieces may hold places of pictures between texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The texts around the messages of a conversation."""

    style: str
    """``MPT``, ``MPT_TWO``, ``INTERNVL_ZH`` or ``TWO``."""
    system_template: str
    """Text of a system message in the styles ``MPT``; ``{system_message}`` stands for it."""
    system_message: str
    """System message of conversations that have none of their own."""
    roles: tuple[str, str]
    """Text in front of a question and of an answer."""
    sep: str
    sep2: str
    placeholder: ClassVar[str] = MARK
    """Text in the place of a picture."""

    @property
    def stop(self) -> str:
        """Return the text of the token that ends an answer."""
        return self.seps[1].strip()

    @property
    def seps(self) -> tuple[str, str]:
        """Return the text behind a question and behind an answer."""
        match self.style:
            case "INTERNVL_ZH":
                return self.sep2, self.sep
            case "TWO":
                return self.sep, self.sep2
        return self.sep, self.sep

    def text(self, system: Message | None, turns: Sequence[Message]) -> str:
        """Return the prompt of a conversation."""
        return "".join(piece.text for piece in self.pieces(system, turns))

    def pieces(self, system: Message | None, turns: Sequence[Message]) -> list[Piece]:
        """Return the prompt of a conversation: questions and answers in turn, then the open answer.

        An empty message counts as an open one: only its role is written. Without a system message it has the
        template's.
        """
        plain = self.style in ("INTERNVL_ZH", "TWO")
        before, _, behind = ("", "", "") if plain else self.system_template.partition("{system_message}")
        found = [Piece(before), *(system if system is not None else [Piece(self.system_message)])]
        found.append(Piece(behind + self.seps[0]))
        for index, turn in enumerate([*turns, []]):
            side = index % 2
            role = self.roles[side] + (":" if plain else "")
            if any(piece.text for piece in turn):
                found += [Piece(role + (" " if plain else "")), *turn, Piece(self.seps[side])]
            else:
                found.append(Piece(role))
        return found


@cache
def templates() -> dict[str, Template]:
    """Return the known templates by name."""
    from importlib.resources import files  # which takes longer to import than all of this file

    content = json.loads(files(__package__).joinpath("templates.json").read_text(encoding="utf-8"))
    return {name: Template(**{**entry, "roles": tuple(entry["roles"])}) for name, entry in content.items()}


def find_template(name: str) -> Template:
    """Return the template `name`.

    Raises:
        BundleError: there is none of this name.
    """
    if name not in templates():
        raise BundleError(f"template {name!r} is unknown; known are {', '.join(templates())}")
    return templates()[name]
