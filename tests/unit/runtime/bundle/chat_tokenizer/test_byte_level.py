"""Byte-level BPE from `vocab.json` and `merges.txt`, and from `tokenizer.json`."""

import json
from pathlib import Path

import pytest

from internvl_edge.runtime.bundle.chat_tokenizer.byte_level import open_tokenizer_json, open_vocabulary
from internvl_edge.runtime.bundle.chat_tokenizer.settings import TokenizerSettings
from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import open_chat_tokenizer
from internvl_edge.runtime.errors import BundleError
from tests.unit.runtime.chat_bundles import LETTERS, write_tokenizer


def ids(text: str) -> list[int]:
    """Return the ids of the letters of pieces."""
    return [LETTERS.index(letter) for letter in text]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", [256]),
        (" ab", [257]),
        ("a b", ids("aĠb")),
        ("12", ids("12")),  # digits stand alone
        ("\n\n", ids("ĊĊ")),
        ("é", ids("Ã©")),
        ("e\u0301", ids("Ã©")),  # NFC comes first
        ("don't", ids("don't")),
        ("<|im_end|>ab", [260, 256]),
    ],
)
def test_ids(folder: Path, text: str, expected: list[int]) -> None:
    tokenizer = open_chat_tokenizer(folder)
    assert tokenizer.encode(text) == expected
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text.replace("e\u0301", "é")


def test_half_a_letter_is_a_replacement_character(folder: Path) -> None:
    tokenizer = open_chat_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("🙂")[:3]) == "\ufffd"
    assert tokenizer.decode(tokenizer.encode("🙂")) == "🙂"


def as_tokenizer_json(folder: Path, **changed: object) -> dict[str, object]:
    """Return a `tokenizer.json` with the same vocabulary; no NFC, and bos in front."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    bos = {
        "type": "TemplateProcessing",
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [300], "tokens": ["<s>"]}},
    }
    bos["single"] = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]  # type: ignore[assignment]
    return {
        "version": "1.0",
        "added_tokens": [{"id": 300, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": bos,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": ["a b", "Ġ ab"]},
        **changed,
    }  # fmt: skip


def test_tokenizer_json_says_what_stands_around_texts(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(as_tokenizer_json(folder)))
    settings = TokenizerSettings.read(folder)
    vocabulary = open_tokenizer_json(folder / "tokenizer.json", settings)
    assert (vocabulary.start, vocabulary.end, vocabulary.size) == ([300], [], 258)
    tokenizer = open_chat_tokenizer(folder)
    assert tokenizer.encode("a<s> ab") == [300, *ids("a"), 300, 257]
    assert tokenizer.encode("a", whole=False) == ids("a")
    assert tokenizer.decode([300, 257]) == " ab"  # special by its own file's flag
    assert tokenizer.size == 301


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("tokenizer.json", "{", "not usable"),
        ("tokenizer.json", "[]", "it holds no JSON object"),
        ("tokenizer.json", '{"model": {"type": "Unigram"}, "decoder": {"type": "Metaspace"}}', "no byte-level BPE"),
        ("tokenizer.json", '{"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}}', "not usable"),
        ("merges.txt", "a b\nx yz\n", "not usable"),
        ("vocab.json", "", "not usable"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: str, finding: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(BundleError, match=finding) as raised:
        open_chat_tokenizer(folder)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_vocabulary_alone_has_nothing_around_texts(folder: Path) -> None:
    vocabulary = open_vocabulary(folder, TokenizerSettings.read(folder))
    assert (vocabulary.start, vocabulary.end, vocabulary.prepared(" a")) == ([], [], " a")
    assert vocabulary.piece_id("Ġab") == 257
    assert vocabulary.piece_id("abab") is None
