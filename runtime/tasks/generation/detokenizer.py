"""Captions while they are written: pieces of text that later tokens cannot change any more."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from internvl_edge.runtime.bundle.tokenizer import Tokenizer

_UNDECODED = "\ufffd"
"""What bytes become that are no whole character, or none yet."""


class CaptionPiece(NamedTuple):
    """A piece of one caption; the pieces of a picture, joined, are its caption."""

    picture: int
    """Index in what was asked for."""
    text: str


class IncrementalDetokenizer:
    """The text of tokens that come one by one, given out as soon as it is sure.

    A character of several byte tokens waits for its last byte, a space for the word behind it: a caption ends without
    one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0

    def append(self, token: int) -> str:
        """Return what has become sure with this token; often nothing."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        return self._new(text.rstrip(_UNDECODED).rstrip())

    def finish(self) -> str:
        """Return what was held back: the text ends here."""
        return self._new(self._tokenizer.decode(self._ids))

    def _new(self, sure: str) -> str:
        given, self._given = self._given, max(self._given, len(sure))
        return sure[given:]


def streamed_captions(
    columns: Iterable[np.ndarray], tokenizer: Tokenizer, rows: Sequence[int], eos_token_id: int
) -> Iterator[CaptionPiece]:
    """Yield pieces of the captions of pictures `rows` from the tokens ``[len(rows)]`` of each step."""
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
