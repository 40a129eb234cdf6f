"""Ids equal those of the reference's slow LLaMA tokenizer."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.errors import BundleError, InputError
from tests.project import DATA

GOLDEN = DATA / "golden" / "case_a_internvl14b"
CASES = json.loads((GOLDEN / "tokenizer_cases.json").read_text(encoding="utf-8"))["tiny"]
BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(GOLDEN / "checkpoint" / "tokenizer.model")


@pytest.mark.parametrize("case", CASES, ids=[f"{index}-{case['text'][:12]!a}" for index, case in enumerate(CASES)])
def test_golden_texts(tokenizer: Tokenizer, case: dict[str, object]) -> None:
    ids = tokenizer.encode_texts([str(case["text"])], allow_empty=True)
    assert ids.dtype == np.int64
    assert ids[0].tolist() == case["ids"]


def test_golden_batch_padded_to_80(tokenizer: Tokenizer) -> None:
    golden = load_file(GOLDEN / "golden.safetensors")
    texts = json.loads((GOLDEN / "meta.json").read_text())["texts80"]
    np.testing.assert_array_equal(tokenizer.encode_texts(texts, pad_to=80), golden["text80.input_ids"])


def test_golden_prompt_has_bos_and_no_eos(tokenizer: Tokenizer) -> None:
    golden = load_file(GOLDEN / "golden.safetensors")
    np.testing.assert_array_equal(tokenizer.encode_prompt("English caption:"), golden["gen.prompt_ids"][:1])


def test_rows_are_right_padded_with_zero_to_the_longest(tokenizer: Tokenizer) -> None:
    short, long = (tokenizer.encode_texts([text])[0].tolist() for text in ("cat", "a red kite"))
    ids = tokenizer.encode_texts(["cat", "a red kite"])
    assert ids.shape == (2, len(long))
    assert ids[0].tolist() == short + [0] * (len(long) - len(short))
    assert ids[1].tolist() == long


def test_without_prefix_the_text_stands_alone(tokenizer: Tokenizer) -> None:
    alone = tokenizer.encode_texts(["cat"], prefix="")[0].tolist()
    assert alone == [*tokenizer.encode_prompt("cat")[0].tolist(), EOS]


def test_a_long_text_is_cut_and_keeps_eos(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    text = "a red kite " * 20
    whole = tokenizer.encode_texts([text], max_length=10_000)[0].tolist()
    with caplog.at_level(logging.WARNING):
        cut = tokenizer.encode_texts(["cat", text])
    assert cut[1].tolist() == [*whole[:79], EOS]
    assert [record.getMessage() for record in caplog.records] == [
        f"text of {len(whole)} tokens cut to 80: {text[:40]!r}..."
    ]


def test_a_text_of_exactly_the_limit_is_not_cut(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    whole = tokenizer.encode_texts(["a red kite"])
    np.testing.assert_array_equal(tokenizer.encode_texts(["a red kite"], max_length=whole.shape[1]), whole)
    assert caplog.records == []


def test_special_tokens_written_in_a_text_are_the_tokens(tokenizer: Tokenizer) -> None:
    def piece(text: str) -> list[int]:
        return tokenizer.encode_prompt(text)[0].tolist()[1:]

    written = tokenizer.encode_prompt("cat</s><s>red<unk>")[0].tolist()
    assert written == [BOS, *piece("cat"), EOS, BOS, *piece("red"), 0]


def test_empty_texts_are_refused_by_position(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="empty at position 1, 3; leave them out"):
        tokenizer.encode_texts(["cat", "", "red", " \n"])


def test_a_single_string_is_not_a_list_of_letters(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="'cat' is one text"):
        tokenizer.encode_texts("cat")


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="no valid Unicode at position 1"):
        tokenizer.encode_texts(["cat", "caf\udce9"])
    with pytest.raises(InputError, match="no valid Unicode"):
        tokenizer.encode_prompt("\ud800")


def test_no_text_gives_no_row(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_texts([]).shape == (0, 0)


def test_decoding_stops_at_eos_and_skips_special_tokens(tokenizer: Tokenizer) -> None:
    cat = tokenizer.encode_prompt("a red kite")[0].tolist()
    assert tokenizer.decode([*cat, EOS, *cat]) == "a red kite"
    assert tokenizer.decode(np.array([0, *cat, 0, 0])) == "a red kite"
    assert tokenizer.decode([]) == ""


def test_decoding_skips_ids_past_the_vocabulary_file(tokenizer: Tokenizer) -> None:
    cat = tokenizer.encode_prompt("cat")[0].tolist()
    assert tokenizer.decode([*cat, 49_953]) == "cat"


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: "<" not in text))
def test_byte_fallback_loses_no_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_prompt(text)[0]
    assert 0 not in ids
    assert tokenizer.decode(ids) == text.replace("\u2581", " ").strip()


def test_what_is_no_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("hello")
    with pytest.raises(BundleError, match="not a SentencePiece model"):
        Tokenizer(tmp_path / "tokenizer.model")
    with pytest.raises(BundleError, match=r"absent\.model"):
        Tokenizer(tmp_path / "absent.model")


def test_a_file_whose_name_is_no_utf8(golden_a: Path, tmp_path: Path) -> None:
    """SentencePiece itself takes names as UTF-8 alone."""
    path = tmp_path / os.fsdecode(b"caf\xe9.model")
    path.write_bytes((golden_a / "checkpoint" / "tokenizer.model").read_bytes())
    assert Tokenizer(path).encode_texts(["cat"]).shape[0] == 1
