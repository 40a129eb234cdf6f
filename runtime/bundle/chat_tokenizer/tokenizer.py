"""Open the tokenizer of a chat model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from internvl_edge.runtime.bundle.chat_tokenizer.added_tokens import AddedToken, Cutter, Part, Span
from internvl_edge.runtime.bundle.chat_tokenizer.byte_level import open_tokenizer_json, open_vocabulary
from internvl_edge.runtime.bundle.chat_tokenizer.sentencepieces import cleaned, open_sentencepieces
from internvl_edge.runtime.bundle.chat_tokenizer.settings import (
    MERGES,
    SENTENCEPIECE,
    TOKENIZER_JSON,
    VOCABULARY,
    TokenizerSettings,
    read_object,
)
from internvl_edge.runtime.errors import BundleError

CHAT_TOKENIZER = "tokenizer"
"""Folder of a bundle with the tokenizer's files of its language model."""


class Vocabulary(Protocol):
    """The pieces of texts between added tokens."""

    size: int
    """Number of pieces; added tokens may stand among them or after them."""
    start: list[int]
    """Ids in front of every text."""
    end: list[int]
    """Ids behind every text."""
    reserved: tuple[str, ...]
    """Texts that would become the id of an added token."""

    def prepared(self, text: str) -> str:
        """Return `text` as it is cut: it may get letters in front, and no others."""

    def piece_id(self, text: str) -> int | None:
        """Return the id of a piece, or None if the vocabulary lacks it."""

    def ids(self, parts: Sequence[Part]) -> list[int]:
        """Return the ids of the parts of a prepared text."""

    def text(self, tokens: Sequence[int | AddedToken]) -> str:
        """Return the text of pieces, by id, and added tokens."""


class ChatTokenizer:
    """A vocabulary with added tokens. It gives the ids and texts of the class that the checkpoint names."""

    def __init__(self, vocabulary: Vocabulary, settings: TokenizerSettings, *, flagged: bool) -> None:
        """With `flagged`, tokens that their file calls special are skipped by `decode`, besides those with a role."""
        self._vocabulary = vocabulary
        self._added = dict(settings.added)
        for text in sorted(settings.additional | {text for text in settings.roles.values() if text}):
            if text not in self._added and (key := vocabulary.piece_id(text)) is not None:
                self._added[text] = AddedToken(id=key, content=text, special=True, named=True)
        self._tokens = {token.id: token for token in self._added.values()}
        self._cutter = Cutter(self._added.values(), vocabulary.reserved)
        self._cleans = settings.flag("clean_up_tokenization_spaces", False)
        self.special_ids = frozenset(
            token.id for token in self._added.values() if token.named or (flagged and token.special)
        )
        """Ids that `decode` skips."""
        self.roles = settings.roles
        """``bos_token``, ``eos_token``, ``unk_token``, ``pad_token`` -> the token's text, or None."""
        pad = settings.roles["pad_token"]
        self.pad_token_id = self.token_id(pad) if pad is not None else None
        """Id that fills the rows of a batch, or None where the checkpoint has none."""
        end = settings.roles["eos_token"]
        self.eos_token_id = self.token_id(end) if end is not None else None
        """Id of the end of a text by the tokenizer's files. Answers end at the ids of the manifest instead."""
        self.size = max([vocabulary.size, *(key + 1 for key in self._tokens)])
        """One more than the largest id."""

    def encode(self, text: str, literal: Sequence[Span] = (), *, whole: bool = True) -> list[int]:
        """Return the ids of a text; `whole` adds those that the model expects around a text, as bos.

        In the spans `literal` control tokens are plain text.
        """
        prepared = self._vocabulary.prepared(text)
        shift = len(prepared) - len(text)
        parts = self._cutter.cut(prepared, [(first + shift, last + shift) for first, last in literal])
        ids = self._vocabulary.ids(parts)
        return [*self._vocabulary.start, *ids, *self._vocabulary.end] if whole else ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of ids. Ids that the tokenizer lacks have no text."""
        kept = [key for key in ids if self.knows(key) and not (skip_special and key in self.special_ids)]
        text = self._vocabulary.text([self._tokens.get(key, key) for key in kept])
        return cleaned(text) if self._cleans else text

    def token_id(self, text: str) -> int | None:
        """Return the id of the token whose text is `text`, or None if there is none."""
        return self._added[text].id if text in self._added else self._vocabulary.piece_id(text)

    def knows(self, token: int) -> bool:
        """Return whether an id is a token; a model may have logits for more ids."""
        return 0 <= token < self._vocabulary.size or token in self._tokens

    def holds_control_token(self, text: str) -> bool:
        """Return whether a control token stands in a text."""
        return any(isinstance(part, AddedToken) and part.control for part in self._cutter.cut(text))


def open_chat_tokenizer(folder: Path, vocabulary: str | None = None) -> ChatTokenizer:
    """Return the tokenizer of a folder, with its settings and added tokens.

    `vocabulary` names one of several files with a vocabulary, which a checkpoint may have: `tokenizer.json`,
    `vocab.json` (with `merges.txt`) or `tokenizer.model`. Default: the first that is there.

    Raises:
        BundleError: the files are missing or damaged.
    """
    present = [name for name in (TOKENIZER_JSON, VOCABULARY, SENTENCEPIECE) if (folder / name).exists()]
    vocabulary = vocabulary or next(
        (name for name in present if name != VOCABULARY or (folder / MERGES).exists()), None
    )
    if vocabulary == TOKENIZER_JSON:
        path = folder / TOKENIZER_JSON
        settings = TokenizerSettings.read(folder, tuple(read_object(path).get("added_tokens") or ()))
        return ChatTokenizer(open_tokenizer_json(path, settings), settings, flagged=True)
    settings = TokenizerSettings.read(folder)
    if vocabulary == VOCABULARY:
        return ChatTokenizer(open_vocabulary(folder, settings), settings, flagged=False)
    if vocabulary == SENTENCEPIECE:
        return ChatTokenizer(open_sentencepieces(folder / SENTENCEPIECE, settings), settings, flagged=False)
    raise BundleError(
        f"{folder}: has no tokenizer ({TOKENIZER_JSON}, {VOCABULARY} with {MERGES}, or {SENTENCEPIECE}); copy its files"
        " from the original checkpoint"
    )
