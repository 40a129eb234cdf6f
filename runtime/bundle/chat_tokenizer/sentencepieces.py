"""SentencePiece vocabularies with added tokens, as in InternLM2, LLaMA and Phi3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from internvl_edge.runtime.bundle.chat_tokenizer.added_tokens import AddedToken, Part
from internvl_edge.runtime.bundle.chat_tokenizer.settings import TokenizerSettings, damaged

_SPACE = "▁"
"""Letter that stands for a space in pieces."""
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""Field 3 of a model file, its normalizer, with field 3 in it, ``add_dummy_prefix``, as 0.

Protobuf merges repeated messages and takes the last value of a field, so that these bytes behind a file change it.
"""
_CLEANED = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Class:
    """The rules of one class of transformers."""

    legacy: bool = False
    """Whether every piece of text gets the model's own leading space; otherwise the whole text gets one."""
    drops_space: bool = True
    """Whether a run of pieces loses its leading space, besides what the model itself drops."""
    space_before_special: bool = True
    """Whether a space goes in front of a special token behind other pieces."""
    space_at_start: bool = False
    """Whether that holds for a special token at the start of a run too."""
    cleans: bool = False
    """Whether spaces before punctuation are dropped."""


class SentencePieces:
    """A SentencePiece model. Added tokens may have ids inside of its table; then they override these pieces."""

    def __init__(self, pieces: Any, settings: TokenizerSettings, rules: _Class, start: list[int]) -> None:
        self._pieces = pieces
        self._rules = rules
        self._additional = settings.additional
        self._prefix = _SPACE if not rules.legacy and settings.flag("add_prefix_space", True) else ""
        self._unknown = settings.roles["unk_token"] or ""
        self.size: int = pieces.vocab_size()
        self.start, self.end = start, list[int]()
        self.reserved = tuple(self._overridden(settings.added))

    def prepared(self, text: str) -> str:
        """Return `text` with the one leading space that a whole text gets."""
        if self._rules.legacy or not text:
            return text
        return self._prefix + text.replace(_SPACE, " ")

    def piece_id(self, text: str) -> int | None:
        """Return the id of a piece, or None if the vocabulary lacks it."""
        found: int = self._pieces.piece_to_id(text)
        return found if found != self._pieces.unk_id() or text == self._pieces.id_to_piece(found) else None

    def ids(self, parts: Sequence[Part]) -> list[int]:
        """Return the ids of the parts of a prepared text."""
        listed = [[part.id] if isinstance(part, AddedToken) else self._encoded(part) for part in parts]
        alone = self._prefix and len(parts) > 1 and parts[0] == self._prefix
        if alone and isinstance(second := parts[1], AddedToken) and second.named:
            listed = listed[1:]
        return list(chain.from_iterable(listed))

    def text(self, tokens: Sequence[int | AddedToken]) -> str:
        """Return the text of pieces and added tokens: runs of pieces, and a space beside each token between them."""
        texts: list[str] = []
        run: list[int | AddedToken] = []
        for token in tokens:
            if isinstance(token, AddedToken) and self._stands_apart(token):
                texts += [text for text in [self._run_text(run)] if text]
                texts.append(token.content)
                run = []
            else:
                run.append(token)
        return " ".join([*texts, self._run_text(run)] if run else texts)

    def _stands_apart(self, token: AddedToken) -> bool:
        return not token.named or (token.content in self._additional and token.id >= self.size)

    def _run_text(self, run: Sequence[int | AddedToken]) -> str:
        rules = self._rules
        texts = [token.content if isinstance(token, AddedToken) else self._pieces.id_to_piece(token) for token in run]
        if texts and rules.drops_space:
            texts[0] = texts[0].removeprefix(_SPACE)
        found, pieces, behind_special = "", list[str](), False
        for index, (token, text) in enumerate(zip(run, texts, strict=True)):
            if not isinstance(token, AddedToken):
                pieces.append(text)
                behind_special = False
                continue
            if rules.space_before_special and not behind_special and (index or rules.space_at_start):
                found += " "
            found += self._decoded(pieces) + text
            pieces, behind_special = [], True
        found += self._decoded(pieces)
        return cleaned(found) if rules.cleans else found

    def _decoded(self, pieces: list[str]) -> str:
        text: str = self._pieces.decode(pieces) if pieces else ""
        return text

    def _encoded(self, text: str) -> list[int]:
        ids: list[int]
        if self._rules.legacy or not text.startswith((_SPACE, " ")):
            ids = self._pieces.encode(text)
            return ids
        # A model that drops leading spaces keeps them behind another text.
        ids = self._pieces.encode(self._unknown + text)
        return ids[len(self._pieces.encode(self._unknown)) :]

    def _overridden(self, added: Mapping[str, AddedToken]) -> list[str]:
        """Return the pieces that give the id of an added token where they occur in a text that is not cut at it."""
        inside = {token.id for token in added.values() if token.id < self.size}
        pieces = [self._pieces.id_to_piece(key) for key in sorted(inside)]
        return [piece for piece in pieces if inside & set(self._pieces.encode(piece))]


def open_sentencepieces(path: Path, settings: TokenizerSettings) -> SentencePieces:
    """Return the vocabulary in a `tokenizer.model`.

    Raises:
        BundleError: the file is damaged.
    """
    import sentencepiece

    rules = _rules(settings)
    try:
        # The library takes names of files only as UTF-8.
        content = path.read_bytes() + (b"" if rules.legacy else _NO_DUMMY_PREFIX)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
    except (OSError, RuntimeError) as error:
        raise damaged(path, error) from error
    start = pieces.bos_id()
    if bos := settings.roles["bos_token"]:
        start = settings.added[bos].id if bos in settings.added else pieces.piece_to_id(bos)
    return SentencePieces(pieces, settings, rules, [start] if settings.flag("add_bos_token", True) else [])


def cleaned(text: str) -> str:
    """Return a text without the spaces before punctuation and short forms, as transformers cleans it."""
    for spaced, joined in _CLEANED:
        text = text.replace(spaced, joined)
    return text


def _rules(settings: TokenizerSettings) -> _Class:
    """Return the rules of the class that the settings name; LLaMA's are those of any other."""
    if settings.kind == "InternLM2Tokenizer":
        return _Class(legacy=True, drops_space=False, space_at_start=True, cleans=True)
    if settings.kind == "InternLM3Tokenizer":
        spaces = settings.flag("spaces_for_interleaved_special_tokens", False)
        drops = settings.flag("add_prefix_space", True)
        return _Class(legacy=True, drops_space=drops, space_before_special=spaces)
    legacy = settings.flag("legacy", True)
    return _Class(legacy=legacy, space_before_special=legacy)
