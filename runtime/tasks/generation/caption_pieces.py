"""Captions in pieces of text that later tokens cannot change any more."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.tasks.generation.answer import AnswerText


class CaptionPiece(NamedTuple):
    """A piece of one caption. The pieces of a picture, joined, are its caption."""

    picture: int
    """Index of the picture in the request."""
    text: str


def streamed_captions(
    columns: Iterable[np.ndarray], tokenizer: Tokenizer, rows: Sequence[int], eos_token_id: int
) -> Iterator[CaptionPiece]:
    """Yield pieces of the captions of the pictures `rows` from the tokens ``[len(rows)]`` of each step."""
    writing = {index: AnswerText(tokenizer.decode) for index in range(len(rows))}
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
