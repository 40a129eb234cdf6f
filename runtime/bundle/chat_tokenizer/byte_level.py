"""Byte-level BPE, as in Qwen2 and Qwen3: from `tokenizer.json`, or from `vocab.json` and `merges.txt`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl_edge.runtime.bundle.chat_tokenizer.added_tokens import AddedToken, Part
from internvl_edge.runtime.bundle.chat_tokenizer.settings import (
    MERGES,
    VOCABULARY,
    TokenizerSettings,
    damaged,
    read_object,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pattern of the texts within which Qwen2's merges join bytes (CHAT.md 6)."""


class ByteLevel:
    """A vocabulary of byte sequences. It has no unknown texts, and adds no token in front unless its file says so."""

    reserved: tuple[str, ...] = ()

    def __init__(
        self, tokenizer: "Tokenizer", settings: TokenizerSettings, around: tuple[list[int], list[int]]
    ) -> None:
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=False)
        self.start, self.end = around
        self._errors = str(settings.values.get("errors") or "replace")
        self._bytes = _bytes_of_letters()

    def prepared(self, text: str) -> str:
        """Return `text`, in front of which this vocabulary puts nothing."""
        return text

    def piece_id(self, text: str) -> int | None:
        """Return the id of a piece, or None if the vocabulary lacks it."""
        found: int | None = self._tokenizer.token_to_id(text)
        return found

    def ids(self, parts: Sequence[Part]) -> list[int]:
        """Return the ids of the parts of a text."""
        found: list[int] = []
        for part in parts:
            found += [part.id] if isinstance(part, AddedToken) else self._tokenizer.encode(part).ids
        return found

    def text(self, tokens: Sequence[int | AddedToken]) -> str:
        """Return the text of pieces and added tokens."""
        whole = bytearray()
        for token in tokens:
            if isinstance(token, AddedToken):
                whole += token.content.encode()
            else:
                whole += bytes(self._bytes[letter] for letter in self._tokenizer.id_to_token(token) or "")
        return whole.decode("utf-8", errors=self._errors)


def open_tokenizer_json(path: Path, settings: TokenizerSettings) -> ByteLevel:
    """Return the vocabulary in a `tokenizer.json`.

    Raises:
        BundleError: the file is damaged, or is no byte-level BPE.
    """
    from tokenizers import Tokenizer

    content = read_object(path)
    if not _is_byte_level(content):
        raise damaged(path, "it is no byte-level BPE")
    try:
        around = _around(Tokenizer.from_str(json.dumps(content)))
        alone = Tokenizer.from_str(json.dumps({**content, "added_tokens": [], "post_processor": None}))
    except Exception as error:  # the library raises nothing more exact
        raise damaged(path, error) from error
    return ByteLevel(alone, settings, around)


def open_vocabulary(folder: Path, settings: TokenizerSettings) -> ByteLevel:
    """Return the vocabulary in a `vocab.json` and a `merges.txt`, cut as Qwen2's.

    Raises:
        BundleError: a file is damaged.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = read_object(folder / VOCABULARY)
    try:
        merges = _merges((folder / MERGES).read_text(encoding="utf-8"))
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library raises nothing more exact
        raise damaged(folder / MERGES, error) from error
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return ByteLevel(tokenizer, settings, ([], []))


def _merges(text: str) -> list[tuple[str, str]]:
    lines = text.split("\n")
    pairs = [line.split() for index, line in enumerate(lines) if not (index == 0 and line.startswith("#version"))]
    return [(pair[0], pair[1]) for pair in pairs if pair]


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    model, decoder = content.get("model") or {}, content.get("decoder") or {}
    return model.get("type", "BPE") == "BPE" and decoder.get("type") == "ByteLevel"


def _around(tokenizer: "Tokenizer") -> tuple[list[int], list[int]]:
    """Return the ids that a whole tokenizer puts before and behind every text."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    start = next(first for first in range(len(whole)) if whole[first : first + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _bytes_of_letters() -> dict[str, int]:
    """Return the byte that each letter of a piece stands for: printable ones stand for themselves."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
