"""Detokenize captions incrementally, in pieces of text that later tokens cannot change any more."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from internvl_edge.runtime.bundle.tokenizer import Tokenizer

_UNDECODED = "\ufffd"
"""Replacement character, into which the tokenizer decodes bytes that are no complete character (yet)."""


class CaptionPiece(NamedTuple):
    """A piece of one caption. The pieces of a picture, joined, are its caption."""

    picture: int
    """Index of the picture in the request."""
    text: str


class IncrementalDetokenizer:
    """A detokenizer that takes tokens one by one and returns text as soon as later tokens cannot change it.

    A character of several byte tokens is kept until its last byte arrives, and a space until the next word, since a
    caption ends without one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0

    def append(self, token: int) -> str:
        """Return the text that has become final with this token, which is often empty."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        return self._new(text.rstrip(_UNDECODED).rstrip())

    def finish(self) -> str:
        """Return the remaining text at the end of the tokens."""
        return self._new(self._tokenizer.decode(self._ids))

    def _new(self, sure: str) -> str:
        given, self._given = self._given, max(self._given, len(sure))
        return sure[given:]


def streamed_captions(
    columns: Iterable[np.ndarray], tokenizer: Tokenizer, rows: Sequence[int], eos_token_id: int
) -> Iterator[CaptionPiece]:
    """Yield pieces of the captions of the pictures `rows` from the tokens ``[len(rows)]`` of each step."""
    writing = {index: IncrementalDetokenizer(tokenizer) for index in range(len(rows))}
    for tokens in columns:
        for index, text in list(writing.items()):
            token = int(tokens[index])
            if token == eos_token_id:
                del writing[index]
            yield from _piece(rows[index], text.finish() if token == eos_token_id else text.append(token))
    for index, text in writing.items():
        yield from _piece(rows[index], text.finish())


def _piece(picture: int, text: str) -> Iterator[CaptionPiece]:
    if text:
        yield CaptionPiece(picture, text)
