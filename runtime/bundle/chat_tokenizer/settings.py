"""Read the settings of a tokenizer: its added tokens, the tokens with a role, and switches."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.bundle.chat_tokenizer.added_tokens import AddedToken
from internvl_edge.runtime.errors import BundleError

TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
SETTINGS = "tokenizer_config.json"
ADDED = "added_tokens.json"
ROLES_FILE = "special_tokens_map.json"

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
_LLAMA_DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
_DEFAULTS: Mapping[str, Mapping[str, str | None]] = {
    "LlamaTokenizer": _LLAMA_DEFAULTS,
    "InternLM2Tokenizer": {**_LLAMA_DEFAULTS, "pad_token": "</s>"},
    "InternLM3Tokenizer": _LLAMA_DEFAULTS,
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}
"""Class of a tokenizer -> the tokens that it takes where its settings name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """The settings in the files beside a vocabulary."""

    kind: str
    """Name of its class in transformers, without ``Fast``."""
    roles: Mapping[str, str | None]
    """``bos_token``, ``eos_token``, ``unk_token``, ``pad_token`` -> the token's text."""
    additional: frozenset[str]
    """Texts of the additional special tokens."""
    added: Mapping[str, AddedToken]
    """Text of each added token -> the token."""
    values: Mapping[str, Any]
    """Content of `tokenizer_config.json`."""

    @classmethod
    def read(cls, folder: Path, added: tuple[Mapping[str, Any], ...] = ()) -> "TokenizerSettings":
        """Return the settings in `folder`; `added` are added tokens that another file of it describes.

        Raises:
            BundleError: a file is damaged.
        """
        values = read_object(folder / SETTINGS)
        kind = str(values.get("tokenizer_class", "")).removesuffix("Fast")
        others = {**_DEFAULTS.get(kind, {}), **read_object(folder / ROLES_FILE)}
        roles = {name: content_of(values[name] if name in values else others.get(name)) for name in _ROLES}
        more = values.get("additional_special_tokens", others.get("additional_special_tokens")) or []
        if isinstance(extra := values.get("extra_special_tokens"), list):  # the name in transformers 5
            more = [*more, *extra]
        additional = frozenset(text for text in map(content_of, more) if text)
        named = additional | {text for text in roles.values() if text}
        return cls(
            kind=kind,
            roles=roles,
            additional=additional,
            added={token.content: token for token in _added(folder, values, added, named)},
            values=values,
        )

    def flag(self, name: str, default: bool) -> bool:
        """Return a switch of `tokenizer_config.json`."""
        value = self.values.get(name)
        return bool(value) if value is not None else default


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, which is empty where there is no file.

    Raises:
        BundleError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise damaged(path, "it holds no JSON object")
    return content


def damaged(path: Path, reason: object) -> BundleError:
    """Return the error for a file of a tokenizer that cannot be used."""
    return BundleError(f"{path}: not usable ({reason}); copy the tokenizer's files from the original checkpoint again")


def content_of(token: Any) -> str | None:
    """Return the text of a token, which a file may write as an object with further settings; None if it is absent."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return str(found) if found is not None else None


def _added(
    folder: Path, values: Mapping[str, Any], entries: tuple[Mapping[str, Any], ...], named: frozenset[str]
) -> Iterator[AddedToken]:
    """Yield the added tokens of all files; of tokens with the same text, the last describes it."""
    plain = read_object(folder / ADDED)
    decoder = values.get("added_tokens_decoder") or {}
    try:
        described = [*entries, *({**entry, "id": key} for key, entry in decoder.items())]
        for text, key in plain.items():
            yield AddedToken(id=int(key), content=text, named=text in named)
        for entry in described:
            text = str(entry["content"])
            flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "special")}
            yield AddedToken(id=int(entry["id"]), content=text, named=text in named, **flags)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder / SETTINGS, f"an added token is not described: {error!r}") from error
