"""Turn a question, pictures and earlier turns into the prompt of a chat model (CHAT.md 5)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import ChatInfo, LanguageInfo
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.tasks.chat.history import Turn, checked_request, with_marks
from internvl_edge.runtime.tasks.chat.native_template import NATIVE_TEMPLATE
from internvl_edge.runtime.tasks.chat.templates import MARK, Message, Piece, find_template
from internvl_edge.runtime.tasks.opened import OpenedGraphs

_SHOWN = 60
"""Most characters of a text that an error shows."""

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """The prompt of a conversation."""

    text: str
    input_ids: list[int]
    question: str
    """The last question with the marks of its pictures, as it belongs into a history."""


def chat_prompt(
    model: OpenedGraphs,
    question: str,
    tiles: Sequence[int] = (),
    history: Sequence[Turn] | None = None,
    system: str | None = None,
) -> ChatPrompt:
    """Return the reference's prompt. It checks nothing, and control tokens in texts are control tokens.

    `tiles` are the numbers of tiles of all pictures of the conversation, in the order of their marks. Marks beyond them
    stay text, and pictures beyond the marks are left out. Only without a history is a picture put first by itself.

    Raises:
        BundleError: the bundle has no language model, no tokenizer, or a template that cannot be used.
    """
    prompts = Prompts.of(model.bundle, model.chat_tokenizer)
    template = prompts.template
    if history is None and tiles and MARK not in question:
        question = with_marks(question, 1 if prompts.official else len(tiles))
    turns = [_pieces(text, literal=False) for text in (*chain.from_iterable(history or ()), question)]
    text = template.text([Piece(system)] if system is not None else None, turns)
    parts = text.split(template.placeholder)
    pictures = [prompts.picture(count) for count in tiles][: len(parts) - 1]
    between = [*pictures, *[template.placeholder] * (len(parts) - 1 - len(pictures)), ""]
    text = "".join(chain.from_iterable(zip(parts, between, strict=True)))
    return ChatPrompt(text=text, input_ids=prompts.tokenizer.encode(text), question=question)


def request_prompt(
    model: OpenedGraphs,
    question: str,
    tiles: Sequence[int] = (),
    history: Sequence[Turn] | None = None,
    system: str | None = None,
) -> ChatPrompt:
    """Return the prompt of a request: as `chat_prompt`, but checked, and control tokens in texts are plain text.

    `tiles` are the numbers of tiles of all pictures of the conversation, those of the history first. Pictures without a
    mark come first in the question, which must have no marks then.

    Raises:
        InputError: texts that are none, an empty question, or another number of pictures than of marks.
        BundleError: the bundle has no language model, no tokenizer, or a template that cannot be used.
    """
    request = checked_request(question, tiles, history, system)
    prompts = Prompts.of(model.bundle, model.chat_tokenizer)
    first = len(tiles) - request.unmarked + 1 if prompts.official else None
    asked = with_marks(request.question, request.unmarked, first)
    turns: list[Message] = []
    for earlier, answer in request.history:
        turns += [_pieces(earlier, literal=True), [Piece(answer, literal=True)]]
    turns.append(_pieces(asked, literal=True))
    pieces = prompts.pieces([Piece(request.system, literal=True)] if request.system is not None else None, turns, tiles)
    text, spans = "", []
    for piece in pieces:
        if piece.literal:
            spans.append((len(text), len(text) + len(piece.text)))
        text += piece.text
    return ChatPrompt(text=text, input_ids=prompts.tokenizer.encode(text, spans), question=asked)


class PromptTemplate(Protocol):
    """The texts around the messages of a conversation, in either layout."""

    @property
    def placeholder(self) -> str:
        """Text in the place of a picture."""

    @property
    def stop(self) -> str:
        """Text of the token that ends an answer, which a decoded answer may hold; empty: none."""

    def text(self, system: Message | None, turns: Sequence[Message]) -> str:
        """Return the prompt of a conversation with placeholders."""

    def pieces(self, system: Message | None, turns: Sequence[Message]) -> list[Piece] | None:
        """Return the same prompt in pieces; None: the places of the messages are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The parts of a bundle that prompts are made with."""

    chat: ChatInfo
    tokens_per_tile: int
    tokenizer: "ChatTokenizer"
    template: PromptTemplate

    @classmethod
    def of(cls, bundle: Bundle, tokenizer: "ChatTokenizer") -> "Prompts":
        """Return those of a bundle.

        Raises:
            BundleError: it has no language model, or a template that cannot be used.
        """
        chat, language = described_chat(bundle)
        return cls(
            chat=chat,
            tokens_per_tile=language.tokens_per_tile,
            tokenizer=tokenizer,
            template=_template(bundle, chat, tokenizer),
        )

    @property
    def official(self) -> bool:
        """Return whether the template is an official one, known by its name."""
        return self.chat.layout == "official"

    def picture(self, tiles: int) -> str:
        """Return the tokens of a picture."""
        return f"{self.chat.start_token}{self.chat.context_token * (tiles * self.tokens_per_tile)}{self.chat.end_token}"

    def pieces(self, system: Message | None, turns: Sequence[Message], tiles: Sequence[int]) -> list[Piece]:
        """Return the pieces of a conversation, in which the places of pictures hold their tokens.

        Raises:
            InputError: a text holds a control token, and the template changes texts.
            BundleError: the template writes another number of pictures.
        """
        pieces = self.template.pieces(system, turns)
        if pieces is None:
            texts = [piece.text for message in (*turns, system or ()) for piece in message if piece.literal]
            if found := [text for text in texts if self.tokenizer.holds_control_token(text)]:
                raise InputError(
                    f"texts: a control token in {found[0][:_SHOWN]!r}, which this bundle's template cannot keep as"
                    " text; leave it out"
                )
            pieces = _pieces(self.template.text(system, turns), literal=False, mark=self.template.placeholder)
        if (places := sum(piece.picture for piece in pieces)) != len(tiles):
            raise BundleError(f"chat template: writes {places} pictures of {len(tiles)}; correct {NATIVE_TEMPLATE}")
        pictures = iter([self.picture(count) for count in tiles])
        return [replace(piece, text=next(pictures)) if piece.picture else piece for piece in pieces]


def described_chat(bundle: Bundle) -> tuple[ChatInfo, LanguageInfo]:
    """Return the records of the conversation and of the language model of a bundle.

    Raises:
        BundleError: it has none.
    """
    info = bundle.manifest.model
    if info.chat is None or info.language is None:
        raise BundleError(
            f"{bundle.path}: has no language model; export an InternVL-Chat checkpoint with --graphs vision,llm"
        )
    return info.chat, info.language


def _template(bundle: Bundle, chat: ChatInfo, tokenizer: "ChatTokenizer") -> PromptTemplate:
    if chat.layout != "official":
        from internvl_edge.runtime.tasks.chat.native_template import open_native_template

        return open_native_template(bundle, chat.context_token, tokenizer.roles)
    template = find_template(chat.template)
    return replace(template, system_message=chat.system) if chat.system is not None else template


def _pieces(text: str, *, literal: bool, mark: str = MARK) -> list[Piece]:
    """Return the pieces of a text: its marks as places of pictures, and the texts between them."""
    pieces: list[Piece] = []
    for index, part in enumerate(text.split(mark)):
        pieces += [Piece(mark, picture=True)] if index else []
        pieces += [Piece(part, literal=literal)] if part else []
    return pieces
