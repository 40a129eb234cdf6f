"""The tokenizer that a folder has, and what it knows."""

from pathlib import Path

import pytest

from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import open_chat_tokenizer
from internvl_edge.runtime.errors import BundleError
from tests.unit.runtime.chat_bundles import write_tokenizer


def test_what_it_knows(tmp_path: Path) -> None:
    tokenizer = open_chat_tokenizer(write_tokenizer(tmp_path))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.size) == (258, 260, 268)
    assert (tokenizer.token_id("<img>"), tokenizer.token_id("ab"), tokenizer.token_id("<none>")) == (261, 256, None)
    assert tokenizer.special_ids == set(range(258, 268))
    assert tokenizer.knows(267)
    assert not tokenizer.knows(268)
    assert tokenizer.decode([258, 256, 260, 999]) == "ab"
    assert tokenizer.holds_control_token("x<|im_end|>y")
    assert not tokenizer.holds_control_token("<ref>x</ref>")


def test_only_tokens_with_a_role_are_skipped_by_the_slow_classes(tmp_path: Path) -> None:
    """Those that their file calls special and nothing else are printed (CHAT.md 12)."""
    tokenizer = open_chat_tokenizer(write_tokenizer(tmp_path, {"additional_special_tokens": ["<img>"]}))
    assert tokenizer.decode([259, 260, 261, 262, 256]) == "<|im_start|></img>ab"


def test_cleaning_is_a_setting(tmp_path: Path) -> None:
    tokenizer = open_chat_tokenizer(write_tokenizer(tmp_path, {"clean_up_tokenization_spaces": True}))
    assert tokenizer.decode(tokenizer.encode("a . ab")) == "a. ab"


def test_a_folder_without_one(tmp_path: Path) -> None:
    (write_tokenizer(tmp_path) / "merges.txt").unlink()
    with pytest.raises(
        BundleError, match=r"has no tokenizer \(tokenizer\.json, vocab\.json with merges\.txt, or token"
    ):
        open_chat_tokenizer(tmp_path)
