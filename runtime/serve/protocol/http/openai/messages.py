"""The messages of a conversation in OpenAI's form: what was said in turn, and the pictures that came with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import PICTURE_MARK
from internvl_edge.runtime.inputs.pictures.picture_text import picture_in_text
from internvl_edge.runtime.serve.protocol.binary_tensors import object_array
from internvl_edge.runtime.serve.protocol.checks import HALF_SURROGATE, quoted
from internvl_edge.runtime.serve.refusals import CONTEXT_CODE, BadRequestError
from internvl_edge.runtime.serve.signature import AnswerLimits

_MOST_MESSAGES = 2048
_BEGINNING = ("system", "developer")
"""Roles of messages that say how the model is to behave; they have the same meaning."""
_ROLES = (*_BEGINNING, "user", "assistant")
_EMPTY: tuple[Any, ...] = (None, [], "")
"""Values of a message's other fields that mean nothing; clients send messages back as they were given."""
_DETAILS = ("auto", "high", "low")


@dataclass(slots=True)
class Conversation:
    """Content of all messages of a request, in the order in which they were said."""

    system: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    """Texts of the user; the last one is to be answered. `PICTURE_MARK` marks pictures that stand between texts."""
    answers: list[str] = field(default_factory=list)
    """Answers to all questions but the last."""
    pictures: list[bytes] = field(default_factory=list)
    """Files of the pictures of all questions, in order."""
    turns: list[int] = field(default_factory=list)
    """Index of the question of each picture."""
    details: list[str] = field(default_factory=list)
    """Detail in which each picture is wanted: `auto`, `high` or `low`."""

    def inputs(self) -> dict[str, np.ndarray]:
        """Return the conversation as inputs of the served model."""
        *earlier, question = (text.encode() for text in self.questions)
        inputs = {"question": object_array([question], (1,))}
        if self.system:
            inputs["system"] = object_array(["\n".join(self.system).encode()], (1,))
        if earlier:
            answers = (text.encode() for text in self.answers)
            said = [text for turn in zip(earlier, answers, strict=True) for text in turn]
            inputs["history"] = object_array(said, (len(earlier), 2))
        if self.pictures:
            inputs["image"] = object_array(self.pictures, (len(self.pictures),))
            inputs["image_turns"] = np.array(self.turns, np.int64)
        return inputs


def conversation(messages: Any, limits: AnswerLimits, picture_bytes: int) -> Conversation:
    """Return the conversation of a list of messages.

    Args:
        messages: Value of the body's field.
        limits: Limits of the model.
        picture_bytes: Largest file of one picture.

    Raises:
        BadRequestError: A message has another form, stands in the wrong place, or has a picture that is not taken.
    """
    if not isinstance(messages, list) or not messages:
        raise _refused("messages", "is a list of messages, of which the last is the user's")
    if len(messages) > _MOST_MESSAGES:
        raise _refused("messages", f"{len(messages)} messages, at most {_MOST_MESSAGES} are taken")
    found = Conversation()
    before = "system"
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        role = _role(place, message)
        _require_turn(place, role, before)
        if role == "user":
            _add_question(found, place, message.get("content"), picture_bytes)
        else:
            (found.answers if role == "assistant" else found.system).append(_text(place, message.get("content")))
        before = role
    if before != "user":
        raise _refused(place, f"is the last and of role {before}; end with a question of the user")
    if not found.questions[-1].replace(PICTURE_MARK, "").strip():
        raise _refused(place, "has no text; ask something")
    _require_room(found, limits)
    return found


def _role(place: str, message: Any) -> str:
    if not isinstance(message, dict):
        raise _refused(place, "is an object with role and content")
    role = message.get("role")
    if role not in _ROLES:
        raise _refused(f"{place}.role", f"{quoted(role)} is not taken here; there are {', '.join(_ROLES)}")
    for name, value in message.items():
        if name not in ("role", "content") and value not in _EMPTY:
            raise _refused(_field(place, name), "is not taken here; a message has role and content")
    return str(role)


def _require_turn(place: str, role: str, before: str) -> None:
    """Check that system messages stand first, and that questions and answers follow each other."""
    if role in _BEGINNING and before not in _BEGINNING:
        raise _refused(place, f"is of role {role} and follows the {before}'s; put it first")
    if role == before or (role == "assistant" and before in _BEGINNING):
        if role in _BEGINNING:
            return
        what = "join them to one message" if role == before else "begin with a question of the user"
        raise _refused(place, f"is of role {role} and follows one of role {before}; {what}")


def _add_question(found: Conversation, place: str, content: Any, picture_bytes: int) -> None:
    pieces: list[str] = []
    for piece in _pieces(place, content, pictures=True):
        if isinstance(piece, str):
            _require_plain(place, piece)
            pieces.append(piece)
        else:
            if len(piece.content) > picture_bytes:
                raise _refused(piece.place, f"has {len(piece.content)} bytes, a picture has at most {picture_bytes}")
            found.pictures.append(piece.content)
            found.turns.append(len(found.questions))
            found.details.append(piece.detail)
            pieces.append(PICTURE_MARK)
    kinds = [piece == PICTURE_MARK for piece in pieces]
    changes = sum(kind != after for kind, after in pairwise(kinds))
    if changes <= 1:  # pictures before or behind the text: they are put first, as the model knows them
        pieces = [piece for piece in pieces if piece != PICTURE_MARK]
    found.questions.append("\n".join(pieces))


@dataclass(frozen=True, slots=True)
class _Picture:
    place: str
    content: bytes
    detail: str


def _text(place: str, content: Any) -> str:
    return "\n".join(piece for piece in _pieces(place, content, pictures=False) if isinstance(piece, str))


def _pieces(place: str, content: Any, *, pictures: bool) -> Iterator[str | _Picture]:
    """Yield the texts and pictures of a message."""
    if isinstance(content, str):
        yield _encodable(f"{place}.content", content)
        return
    if not isinstance(content, list) or not content:
        raise _refused(f"{place}.content", "is a text, or a list of parts")
    kinds = ("text", "image_url") if pictures else ("text",)
    for index, part in enumerate(content):
        here = f"{place}.content[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in kinds:
            raise _refused(f"{here}.type", f"{quoted(kind)} is not taken here; there are {' and '.join(kinds)}")
        _require_fields(here, part, ("type", str(kind)))
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise _refused(f"{here}.text", "is a text")
            yield _encodable(f"{here}.text", part["text"])
        else:
            yield _picture(f"{here}.image_url", part.get("image_url"))


def _picture(place: str, given: Any) -> _Picture:
    if not isinstance(given, dict) or not isinstance(given.get("url"), str):
        raise _refused(place, "is an object with url, a data URL of a picture")
    _require_fields(place, given, ("url", "detail"))
    detail = "auto" if given.get("detail") is None else given["detail"]
    if detail not in _DETAILS:
        raise _refused(f"{place}.detail", f"{quoted(detail)} is not known; there are {', '.join(_DETAILS)}")
    try:
        content = picture_in_text(given["url"])
    except InputError as error:
        raise _refused(f"{place}.url", str(error)) from error
    if content is None:
        raise _refused(f"{place}.url", "is no data URL of a picture; send data:image/png;base64,...")
    return _Picture(place, content, detail)


def _require_plain(place: str, text: str) -> None:
    """Check that a text of the user holds no picture and nothing that stands for one."""
    if PICTURE_MARK in text:
        raise _refused(
            place, f"has {PICTURE_MARK} in its text, which stands for a picture; send pictures as image_url alone"
        )
    try:
        picture = picture_in_text(text)
    except InputError as error:
        raise _refused(place, f"has a text that {error}") from error
    if picture is not None:
        raise _refused(place, "has a picture as its text; send it as image_url")


def _require_room(found: Conversation, limits: AnswerLimits) -> None:
    if found.pictures and not limits.tile_tokens:
        raise _refused(
            "messages", "have pictures, and this bundle has no graph for them; export it with the vision graph"
        )
    least = len(found.pictures) * limits.tile_tokens
    if least >= limits.context:
        raise BadRequestError(
            f"messages: {len(found.pictures)} pictures of at least {limits.tile_tokens} tokens are {least} of a context"
            f" of {limits.context}; send fewer",
            param="messages",
            code=CONTEXT_CODE,
        )


def _require_fields(place: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise _refused(_field(place, unknown[0]), f"is not taken here; there are {' and '.join(known)}")


def _field(place: str, name: str) -> str:
    return f"{place}.{name}" if name.isidentifier() else f"{place}[{quoted(name)}]"


def _encodable(place: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refused(place, HALF_SURROGATE) from error
    return text


def _refused(place: str, finding: str) -> BadRequestError:
    return BadRequestError(f"{place} {finding}", param=place)
