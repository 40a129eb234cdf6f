"""Captions in pieces: joined they are the caption, and no piece is ever taken back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.tasks.generation.answer import AnswerText
from internvl_edge.runtime.tasks.generation.caption_pieces import CaptionPiece, streamed_captions

EOS = 2
SENTENCES = [
    "a red kite above the sea",
    "两只小船在海上",
    "赤い凧が空を飛んでいる",
    "빨간 연이 하늘을 난다",
    "ว่าวสีแดงบนท้องฟ้า",
    "un cerf-volant déjà très haut",
    "красный змей над морем",
    "पतंग आसमान में",
    "family: 👩‍👩‍👧, flag 🇳🇵, end \U0010ffff",
    "  two  spaces\tand\nlines ",
    "a replacement \ufffd inside \ufffd",
]


@pytest.fixture(scope="module")
def tokenizer(emoji: Path) -> Tokenizer:
    return Tokenizer(emoji / "checkpoint" / "tokenizer.model")


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    text = AnswerText(tokenizer.decode)
    return [*(text.append(token) for token in ids), text.finish()]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_joined_pieces_are_the_text(tokenizer: Tokenizer, sentence: str) -> None:
    ids = tokenizer.encode_prompt(sentence)[0, 1:].tolist()
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == sentence.strip()
    if "\ufffd" not in sentence:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300)
@given(st.lists(st.one_of(st.integers(0, 6143), st.integers(3, 258)), max_size=24))
def test_any_tokens_give_the_text_that_decode_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    until = ids[: ids.index(EOS)] if EOS in ids else ids
    assert "".join(pieces_of(tokenizer, until)) == tokenizer.decode(ids)


def test_words_come_as_they_are_known(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_prompt("a red kite above the sea")[0, 1:].tolist()
    pieces = pieces_of(tokenizer, ids)
    assert sum(bool(piece) for piece in pieces) > 3
    assert pieces[-1] == ""  # nothing is held back behind the last word


def test_a_character_of_bytes_waits_for_its_last(tokenizer: Tokenizer) -> None:
    character = "\U0010ffff"
    ids = tokenizer.encode_prompt(character)[0, 1:].tolist()
    assert len(ids) >= 4
    assert pieces_of(tokenizer, ids) == ["" for _ in ids[1:]] + [character, ""]


def test_a_row_ends_at_its_eos_and_the_others_go_on(tokenizer: Tokenizer) -> None:
    one, two = (tokenizer.encode_prompt(text)[0, 1:].tolist() for text in ("cat", "a red kite above the sea"))
    columns = list(np.array([[*one, EOS, *[0] * (len(two) - len(one))], [*two, EOS]]).T)
    pieces = list(streamed_captions(columns, tokenizer, rows=range(7, 9), eos_token_id=EOS))
    assert "".join(piece.text for piece in pieces if piece.picture == 7) == "cat"
    assert "".join(piece.text for piece in pieces if piece.picture == 8) == "a red kite above the sea"
    assert all(piece.text for piece in pieces)


def test_no_step_is_asked_for_before_its_piece_is(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_prompt("a red kite above the sea")[0, 1:].tolist()
    steps: list[int] = []

    def columns() -> Iterator[np.ndarray]:
        for token in ids:
            steps.append(token)
            yield np.array([token])

    pieces = streamed_captions(columns(), tokenizer, rows=[0], eos_token_id=EOS)
    assert isinstance(next(pieces), CaptionPiece)
    assert len(steps) < len(ids)
