"""SentencePiece vocabularies: leading spaces, added tokens inside of the table, and the spaces of decoded texts."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from internvl_edge.runtime.bundle.chat_tokenizer.sentencepieces import cleaned
from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import ChatTokenizer, open_chat_tokenizer
from internvl_edge.runtime.errors import BundleError

_USER = ["[UNUSED_1]", "[UNUSED_2]"]
ADDED = {
    "100": {"content": "<|user|>", "special": True, "rstrip": True},
    "101": {"content": "<img>", "special": True},
    "102": {"content": "<|end|>", "special": True},
}


@pytest.fixture(scope="module")
def model() -> bytes:
    """Letters a to f, ``▁ab`` and ``▁``; two pieces that always are pieces."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab ab ab cd ef", "ab cd. ef"] * 20),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=22,
        byte_fallback=False,
        user_defined_symbols=_USER,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return buffer.getvalue()


def opened(folder: Path, model: bytes, **settings: Any) -> ChatTokenizer:
    """Return the tokenizer of a folder with these settings."""
    (folder / "tokenizer.model").write_bytes(model)
    content = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": ADDED, "eos_token": "<|end|>"}
    content["additional_special_tokens"] = ["<img>"]
    (folder / "tokenizer_config.json").write_text(json.dumps({**content, **settings}))
    return open_chat_tokenizer(folder)


def pieces(tokenizer: ChatTokenizer, model: bytes, text: str) -> list[str]:
    """Return the pieces of a text, without bos."""
    named = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = tokenizer.encode(text)
    assert ids[0] == named.bos_id()
    return [named.id_to_piece(key) if key < named.vocab_size() else tokenizer.decode([key], False) for key in ids[1:]]


@pytest.mark.parametrize(
    ("legacy", "text", "expected"),
    [
        (True, "ab", ["▁ab"]),
        (True, "<img>ab<img>ab", ["<img>", "▁ab", "<img>", "▁ab"]),  # every piece gets a space of its own
        (False, "<img>ab<img>ab", ["<img>", "ab", "<img>", "ab"]),  # the first one is dropped before a named token
        (False, "<|user|>ab", ["▁", "<|user|>", "ab"]),  # and stays before one that is flagged alone
        (False, "<|user|> \n ab", ["▁", "<|user|>", "ab"]),
        (False, "<img> ab", ["<img>", "▁ab"]),
        (False, "", []),
    ],
)
def test_leading_spaces(tmp_path: Path, model: bytes, legacy: bool, text: str, expected: list[str]) -> None:
    tokenizer = opened(tmp_path, model, legacy=legacy)
    found = "\u2581".join(pieces(tokenizer, model, text))
    assert found.replace("a\u2581b", "ab") == "\u2581".join(expected)


def test_legacy_is_the_default_and_no_bos_a_setting(tmp_path: Path, model: bytes) -> None:
    assert pieces(opened(tmp_path, model), model, "<img>ab") == ["<img>", "▁ab"]
    assert opened(tmp_path, model, add_bos_token=False).encode("<img>") == [101]


def test_added_tokens_override_pieces(tmp_path: Path, model: bytes) -> None:
    """The id of a piece that always is one would come out of a user's text; there it is cut in two."""
    key = sentencepiece.SentencePieceProcessor(model_proto=model).piece_to_id("[UNUSED_1]")
    over = {**ADDED, str(key): {"content": "<|im_end|>", "special": True}}
    tokenizer = opened(tmp_path, model, added_tokens_decoder=over, tokenizer_class="InternLM2Tokenizer")
    assert tokenizer.encode("<|im_end|>", whole=False) == [key]
    assert tokenizer.token_id("<|im_end|>") == key
    assert tokenizer.decode([key], skip_special=False) == "<|im_end|>"
    assert tokenizer.encode("[UNUSED_1]", whole=False)[-1] == key  # as the reference does
    assert key not in tokenizer.encode("[UNUSED_1]", [(0, 10)], whole=False)
    assert key not in tokenizer.encode("<|im_end|>", [(0, 10)], whole=False)


def test_a_piece_that_is_an_added_token_too_is_text_in_what_a_user_wrote(tmp_path: Path, model: bytes) -> None:
    """Tables of some models hold the tokens of turns as pieces that are always cut out."""
    key = sentencepiece.SentencePieceProcessor(model_proto=model).piece_to_id("[UNUSED_1]")
    same = {**ADDED, str(key): {"content": "[UNUSED_1]", "special": True}}
    tokenizer = opened(tmp_path, model, added_tokens_decoder=same)
    assert tokenizer.encode("[UNUSED_1]", whole=False) == [key]
    assert key not in tokenizer.encode("[UNUSED_1]", [(0, 10)], whole=False)


@pytest.mark.parametrize(
    ("kind", "legacy", "text"),
    [
        ("LlamaTokenizer", True, "ab <|user|>  ab<|end|>cd"),
        ("LlamaTokenizer", False, "ab <|user|> ab<|end|>cd"),
        ("InternLM2Tokenizer", True, "ab <|user|>  ab<|end|>cd."),
    ],
)
def test_spaces_beside_tokens(tmp_path: Path, model: bytes, kind: str, legacy: bool, text: str) -> None:
    """Tokens without a role stand between spaces; the run before the end of a text has one more by class."""
    tokenizer = opened(tmp_path, model, legacy=legacy, tokenizer_class=kind)
    named = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = [*named.encode("ab"), 100, *named.encode("ab"), 102, *named.piece_to_id(["c", "d"])]
    if kind == "InternLM2Tokenizer":
        ids += named.piece_to_id(["▁", "."])  # this class cleans, whatever the settings say
    assert tokenizer.decode(ids, skip_special=False) == text


@pytest.mark.parametrize(("spaces", "text"), [(False, "ab ab<|end|>cd"), (True, " ab ab<|end|>cd")])
def test_internlm3_writes_a_space_before_the_end_by_a_setting(
    tmp_path: Path, model: bytes, spaces: bool, text: str
) -> None:
    tokenizer = opened(
        tmp_path,
        model,
        tokenizer_class="InternLM3Tokenizer",
        spaces_for_interleaved_special_tokens=spaces,
        legacy=False,
    )
    named = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = [*named.encode("ab ab"), 102, *named.piece_to_id(["c", "d"])]
    assert tokenizer.decode(ids, skip_special=False) == text
    assert tokenizer.encode("<img>ab", whole=False) == [101, *named.encode("ab")]


def test_ids_that_the_tokenizer_lacks_have_no_text(tmp_path: Path, model: bytes) -> None:
    tokenizer = opened(tmp_path, model)
    a = sentencepiece.SentencePieceProcessor(model_proto=model).piece_to_id("a")
    assert tokenizer.decode([a, 99, 500, -1, a]) == "aa"
    assert [tokenizer.knows(key) for key in (0, 21, 22, 99, 100, 102, 103, -1)] == [
        *(True, True, False, False, True, True, False, False),
    ]
    assert tokenizer.size == 103


def test_no_model_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.model: not usable \(.+\); copy the tokenizer's files"):
        opened(tmp_path, b"no model")


def test_spaces_before_punctuation_are_cleaned() -> None:
    assert cleaned("a . b , c ! d ? e 's f n't g ' h") == "a. b, c! d? e's fn't g'h"
