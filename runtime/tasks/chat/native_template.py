"""Render the Jinja template of a checkpoint in transformers' own layout (CHAT.md 5)."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import BundleError, one_line
from internvl_edge.runtime.tasks.chat.templates import MARK, Message, Piece

if TYPE_CHECKING:
    from jinja2 import Template

NATIVE_TEMPLATE = "tokenizer/chat_template.jinja"
"""File of a bundle with the template of the native layout."""
_FIRST_PRIVATE = 0xE000
"""First letter of Unicode's private use area, whose letters no text should have."""
_ROLES = ("user", "assistant")


class NativeTemplate:
    """A Jinja template, which a sandbox renders."""

    stop = ""

    def __init__(self, source: str, context_token: str, roles: Mapping[str, str | None]) -> None:
        """`roles` are the texts of ``bos_token`` and its like, which a template may use.

        Raises:
            BundleError: the source is no template, or has no place for a picture.
        """
        self._source = source
        self._roles = {name: text for name, text in roles.items() if text is not None}
        shown = self._rendered([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}])
        found = next((text for text in (context_token, MARK) if text in shown), None)
        if found is None:
            raise BundleError(f"chat template: writes neither {context_token} nor {MARK} for a picture; correct it")
        self.placeholder = found
        """Text that it writes for a picture."""

    def text(self, system: Message | None, turns: Sequence[Message]) -> str:
        """Return the prompt of a conversation, with the placeholder for each picture."""
        return self._rendered(self._messages(system, turns, lambda text: text, self.placeholder))

    def pieces(self, system: Message | None, turns: Sequence[Message]) -> list[Piece] | None:
        """Return the same prompt in pieces, with the written texts marked as literal.

        None: the template changes the texts, so that their places in the prompt are not known.
        """
        plain = self.text(system, turns)
        start, end, picture = _unused_letters(plain + self._source)

        def marked(text: str) -> str:
            core = text.strip()
            before, _, behind = text.partition(core) if core else (text, "", "")
            return f"{before}{start}{core}{end}{behind}" if core else text

        whole = self._rendered(self._messages(system, turns, marked, picture))
        found = list(self._split(whole, start, end, picture))
        same = "".join(piece.text for piece in found) == plain
        return found if same else None

    def _split(self, whole: str, start: str, end: str, picture: str) -> Iterator[Piece]:
        for index, part in enumerate(re.split(f"{start}([^{start}{end}]*){end}", whole)):
            if index % 2:
                yield Piece(part, literal=True)
                continue
            for place, text in enumerate(part.replace(picture, self.placeholder).split(self.placeholder)):
                yield from [Piece(self.placeholder, picture=True)] if place else []
                yield Piece(text)

    def _messages(
        self, system: Message | None, turns: Sequence[Message], marked: Callable[[str], str], picture: str
    ) -> list[dict[str, Any]]:
        found = [("system", system)] if system is not None else []
        found += [(_ROLES[index % 2], turn) for index, turn in enumerate(turns)]
        return [{"role": role, "content": list(_content(message, marked, picture))} for role, message in found]

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        from jinja2 import TemplateError

        try:
            return _compiled(self._source).render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._roles
            )
        except (
            TemplateError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise BundleError(f"chat template: {one_line(error)}; correct {NATIVE_TEMPLATE}") from error


def open_native_template(bundle: Bundle, context_token: str, roles: Mapping[str, str | None]) -> NativeTemplate:
    """Return the template of a bundle.

    Raises:
        BundleError: it has none, or one that cannot be used.
    """
    if NATIVE_TEMPLATE not in bundle.manifest.files:
        raise BundleError(f"{bundle.path}: has no {NATIVE_TEMPLATE}; export from a checkpoint that has a chat template")
    return NativeTemplate((bundle.path / NATIVE_TEMPLATE).read_text(encoding="utf-8"), context_token, roles)


def _content(message: Message, marked: Callable[[str], str], picture: str) -> Iterator[dict[str, str]]:
    """Yield the items of a message. A picture with a newline behind it is an item, others stand inside of texts."""
    texts = [piece.text for piece in message] + [""]
    current = ""
    for index, piece in enumerate(message):
        if not piece.picture:
            current += marked(texts[index]) if texts[index] else ""
        elif texts[index + 1].startswith("\n"):
            texts[index + 1] = texts[index + 1][1:]
            yield from [{"type": "text", "text": current}] if current else []
            yield {"type": "image"}
            current = ""
        else:
            current += picture
    yield from [{"type": "text", "text": current}] if current else []


@lru_cache(maxsize=4)
def _compiled(source: str) -> "Template":
    """Return a compiled template, with what transformers offers to it."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source)


def _unused_letters(text: str) -> tuple[str, str, str]:
    """Return three letters that do not occur in a text."""
    used = set(text)
    free = (letter for letter in map(chr, count(_FIRST_PRIVATE)) if letter not in used)
    return next(free), next(free), next(free)
