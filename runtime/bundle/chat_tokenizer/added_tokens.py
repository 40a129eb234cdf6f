"""Cut a text at the tokens that were added to a vocabulary."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Span = tuple[int, int]
"""Start and end of a part of a text."""

MARKUP = frozenset({"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"})
"""Tokens that users write themselves: they mark objects and places in questions (CHAT.md 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token that is cut out of a text before the rest is tokenized."""

    id: int
    content: str
    lstrip: bool = False
    """Whether it takes the white space before it, which then gives no tokens."""
    rstrip: bool = False
    """Whether it takes the white space behind it."""
    special: bool = False
    """Whether its file calls it special."""
    named: bool = False
    """Whether it is the token for the start, the end, padding or the unknown, or an additional special token."""

    @property
    def control(self) -> bool:
        """Return whether it steers the conversation, so that it is plain text in what a user wrote."""
        return (self.special or self.named) and self.content not in MARKUP


Part = str | AddedToken
"""A part of a text: an added token, or the text between two of them."""


class Cutter:
    """A pattern of all added tokens of a tokenizer."""

    def __init__(self, tokens: Iterable[AddedToken], reserved: Sequence[str] = ()) -> None:
        self._tokens = {token.content: token for token in tokens if token.content}
        self._pattern = _any_of(self._tokens)
        self._reserved = _any_of(reserved)

    def cut(self, text: str, literal: Sequence[Span] = ()) -> list[Part]:
        """Return the parts of `text`, none of them empty.

        In the spans `literal` control tokens are plain text, and so is every token that stands outside of them too,
        where a template wrote it. A reserved text, which the vocabulary would turn into the id of an added token, is
        cut in two there so that it gives other ids.
        """
        written = {found.group() for found in self._pattern.finditer(text) if not _touches(found.span(), literal)}
        parts: list[Part] = []
        start = place = 0
        while (found := self._pattern.search(text, place)) is not None:
            token = self._tokens[found.group()]
            if (token.control or token.content in written) and _touches(found.span(), literal):
                place = found.start() + 1
                continue
            parts += [*self._texts(text, start, found.start(), literal), token]
            start = place = found.end()
        parts += self._texts(text, start, len(text), literal)
        return [part for part in _stripped(parts) if part]

    def _texts(self, text: str, start: int, end: int, literal: Sequence[Span]) -> list[str]:
        """Return the text from `start` to `end`, cut inside of reserved texts."""
        found = [match.span() for match in self._reserved.finditer(text, start, end) if _touches(match.span(), literal)]
        cuts = [start, *((first + last) // 2 for first, last in found), end]
        return [text[first:last] for first, last in pairwise(cuts)]


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of any of `texts`, the longest first; without texts it matches nothing."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _touches(span: Span, others: Sequence[Span]) -> bool:
    return any(first < span[1] and span[0] < last for first, last in others)


def _stripped(parts: list[Part]) -> list[Part]:
    """Return the parts without the white space that the added tokens beside them take."""
    result = list(parts)
    for index, token in enumerate(parts):
        if isinstance(token, str):
            continue
        before, behind = index - 1, index + 1
        if token.rstrip and behind < len(result) and isinstance(text := result[behind], str):
            result[behind] = text.lstrip()
        if token.lstrip and before >= 0 and isinstance(text := result[before], str):
            result[before] = text.rstrip()
    return result
