"""Tokenize texts to the same ids as the reference's slow LLaMA tokenizer (MODEL.md 4.1)."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.errors import BundleError, InputError

logger = logging.getLogger(__name__)

TEXT_PREFIX = "summarize:"
"""Prefix of every text that is embedded, joined without a space."""
MAX_LENGTH = 80
"""Most tokens of a text, bos and eos included. Longer texts are cut, and eos is kept."""

_SHOWN = 40
"""Most characters of a text that a message shows."""
_NAMED = 20
"""Most positions that one error names."""
_SPECIAL = re.compile(r"(<s>|</s>|<unk>)")
"""Special tokens that are recognised inside a text, as the slow tokenizer does."""


class Tokenizer:
    """A SentencePiece model that puts bos first and pads on the right with id 0, since it has no token for padding."""

    def __init__(self, model_file: Path) -> None:
        self._pieces = _load(model_file)
        self._special = {"<s>": self._pieces.bos_id(), "</s>": self._pieces.eos_id(), "<unk>": self._pieces.unk_id()}

    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        prefix: str = TEXT_PREFIX,
        max_length: int = MAX_LENGTH,
        pad_to: int | None = None,
        allow_empty: bool = False,
    ) -> np.ndarray:
        """Return ids ``[T, L]`` with bos and eos, right-padded with 0 to the longest text or to `pad_to`.

        A text of more than `max_length` tokens is cut with a warning; eos is kept.

        Raises:
            InputError: texts that are empty (unless `allow_empty`) or no valid Unicode, all of them named by position.
        """
        _check_texts(texts, allow_empty)
        rows = [self._row(text, prefix, max_length) for text in texts]
        width = max([pad_to or 0, *(len(row) for row in rows)])
        ids = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        return ids

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """Return the ids ``[1, n]`` of a caption prompt: bos, no eos; an empty prompt is bos alone.

        Raises:
            InputError: a prompt that is no valid Unicode.
        """
        _check_texts([prompt], allow_empty=True)
        return np.array([[self._pieces.bos_id(), *self._ids(prompt)]], np.int64)

    def token_id(self, text: str) -> int | None:
        """Return the id of the token whose text is `text`, or None if there is none."""
        known: int = self._pieces.piece_to_id(text)
        return known if known != self._pieces.unk_id() or text == "<unk>" else None

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of generated ids up to eos, without special tokens.

        Ids beyond the vocabulary file are skipped too: the embedding may have rows for added tokens that the file
        lacks,
        as the official model has for ``[PAD]``.
        """
        kept: list[int] = []
        for token in np.asarray(ids).tolist():
            if token == self._pieces.eos_id():
                break
            if token not in self._special.values() and token < self._pieces.vocab_size():
                kept.append(token)
        text: str = self._pieces.decode(kept)
        return text.strip()

    def _row(self, text: str, prefix: str, max_length: int) -> list[int]:
        ids = [self._pieces.bos_id(), *self._ids(prefix + text), self._pieces.eos_id()]
        if len(ids) > max_length:
            logger.warning("text of %d tokens cut to %d: %r...", len(ids), max_length, text[:_SHOWN])
            ids = [*ids[: max_length - 1], self._pieces.eos_id()]
        return ids

    def _ids(self, text: str) -> list[int]:
        """Return the ids of `text` without bos and eos; special tokens written in it become their own ids."""
        ids: list[int] = []
        for part in _SPECIAL.split(text):
            if part in self._special:
                ids.append(self._special[part])
            elif part:
                ids += self._pieces.encode(part)
        return ids


def _check_texts(texts: Sequence[str], allow_empty: bool) -> None:
    if isinstance(texts, str):
        raise InputError(f"texts: {texts[:_SHOWN]!r} is one text, not several; give a list")
    if broken := [index for index, text in enumerate(texts) if not _is_unicode(text)]:
        raise InputError(f"texts: no valid Unicode at position {_listed(broken)}; give strings encoded in UTF-8")
    empty = [index for index, text in enumerate(texts) if not text.strip()]
    if empty and not allow_empty:
        raise InputError(f"texts: empty at position {_listed(empty)}; leave them out or write something")


def _is_unicode(text: object) -> bool:
    """Return whether `text` has no lone surrogates, which Python makes of undecodable bytes of a command line."""
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(positions: Sequence[int]) -> str:
    more = f" and {len(positions) - _NAMED} more" if len(positions) > _NAMED else ""
    return ", ".join(map(str, positions[:_NAMED])) + more


def _load(model_file: Path) -> Any:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model_file.read_bytes())  # it takes only UTF-8 paths
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{model_file}: not a SentencePiece model ({error}); export the bundle again") from error
