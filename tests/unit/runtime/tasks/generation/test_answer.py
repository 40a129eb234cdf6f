"""An answer in pieces: joined they are its text, none is taken back, and none begins a stop string."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.bundle.chat_tokenizer.sentencepieces import cleaned
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.tasks.generation.answer import AnswerText, AnswerWriter, Decode, steps_of
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.generated import Generated, LogProbabilities, Step
from internvl_edge.runtime.tasks.generation.stops import first_stop

EOS = 256
LETTERS = "ab \n"


def decode_bytes(ids: Sequence[int]) -> str:
    """Return the text of ids that are bytes, as byte-level tokenizers do; other ids are special."""
    return bytes(token for token in ids if token < EOS).decode("utf-8", "replace")


@pytest.fixture(scope="module")
def sentencepiece(emoji: Path) -> Decode:
    tokenizer = Tokenizer(emoji / "checkpoint" / "tokenizer.model")
    return lambda ids: tokenizer.decode(list(ids))


def steps(ids: Sequence[int], eos: tuple[int, ...] = (EOS,)) -> Iterator[Step]:
    for token in ids:
        yield Step(np.array([token]), np.array([token not in eos]))
        if token in eos:
            return


def config(limit: int = 1000, eos: tuple[int, ...] = (EOS,)) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=limit, eos_token_ids=eos)


@settings(max_examples=300)
@given(
    st.lists(st.one_of(st.text(LETTERS, max_size=30), st.text(max_size=3)), max_size=8).map("".join),
    st.lists(st.text("ab ", min_size=1, max_size=4), max_size=2),
)
def test_bytes_give_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    writer = AnswerWriter(steps([*text.encode(), EOS]), decode_bytes, config(), stops)
    pieces = list(writer.pieces())
    begin = first_stop(text, stops)
    assert "".join(pieces) == writer.text == text[:begin].strip()
    assert all(pieces)
    assert writer.finish_reason == "stop"
    if begin is None:
        assert writer.ids == [*text.encode(), EOS]
    else:
        assert len(decode_bytes(writer.ids)) >= begin  # up to the token that completed it
        assert decode_bytes(writer.ids) == text[: len(decode_bytes(writer.ids))]
        assert first_stop(decode_bytes(writer.ids[:-1]), stops) is None


@settings(max_examples=200)
@given(st.lists(st.integers(0, 300), max_size=90))
def test_any_bytes_give_the_text_that_decode_gives(ids: list[int]) -> None:
    text = AnswerText(decode_bytes)
    joined = "".join([*(text.append(token) for token in ids), text.finish()])
    assert joined == decode_bytes(ids).strip()


@settings(max_examples=400)
@given(
    st.lists(st.sampled_from([" ", "n", "'", "t", "m", "ve", ".", ",", "x", " 's", " n't", "\n"]), max_size=90),
    st.integers(1, 3),
)
def test_spaces_that_are_dropped_later_are_not_given(parts: list[str], size: int) -> None:
    text = "".join(parts)
    words = [text[start : start + size] for start in range(0, len(text), size)]

    def decode(ids: Sequence[int]) -> str:
        return cleaned("".join(words[index] for index in ids))

    answer = AnswerText(decode)
    joined = "".join([*(answer.append(index) for index in range(len(words))), answer.finish()])
    assert joined == answer.text == cleaned(text).strip()


@settings(max_examples=200)
@given(st.lists(st.one_of(st.integers(3, 6143), st.integers(3, 258)), max_size=150))
def test_a_long_answer_is_decoded_in_windows(sentencepiece: Decode, ids: list[int]) -> None:
    decoded: list[int] = []

    def counted(tokens: Sequence[int]) -> str:
        decoded.append(len(tokens))
        return sentencepiece(tokens)

    text = AnswerText(counted)
    joined = "".join([*(text.append(token) for token in ids), text.finish()])
    assert joined == sentencepiece(ids).strip()
    clean = "\ufffd" not in joined
    assert not clean or max(decoded, default=0) <= 64


def test_a_character_of_four_bytes_and_joined_ones_are_never_halved() -> None:
    ids = "x👩‍👩‍👧é漢".encode()
    text = AnswerText(decode_bytes)
    pieces = [text.append(token) for token in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert [piece for piece in pieces if piece] == ["x", "👩", "\u200d", "👩", "\u200d", "👧", "é", "漢"]


def test_the_beginning_of_a_stop_string_waits() -> None:
    text = AnswerText(decode_bytes, ["\nUser:"])
    pieces = [text.append(token) for token in b"Yes.\nUsed"]
    assert pieces == ["Y", "e", "s", ".", "", "", "", "", "\nUsed"]
    text = AnswerText(decode_bytes, ["\nUser:"])
    assert "".join(text.append(token) for token in b"Yes.\nUser: no") == "Yes."
    assert (text.stopped, text.finish()) == (True, "")


def test_a_stop_string_that_never_comes_and_the_limit() -> None:
    writer = AnswerWriter(steps(b"wait, sto"), decode_bytes, config(9), ["stop"]).finish()
    assert (writer.text, writer.finish_reason, len(writer.ids)) == ("wait, sto", "length", 9)
    assert AnswerWriter(steps(b"wait"), decode_bytes, config(9)).finish().finish_reason == "cancelled"


def test_no_step_is_computed_behind_the_stop() -> None:
    asked: list[int] = []

    def recorded() -> Iterator[Step]:
        for step in steps(b"one. two."):
            asked.append(int(step.tokens[0]))
            yield step

    writer = AnswerWriter(recorded(), decode_bytes, config(), [". "]).finish()
    assert (writer.text, bytes(asked)) == ("one", b"one. ")


def test_the_id_that_stops_is_no_text() -> None:
    writer = AnswerWriter(steps(b"ab!", eos=(ord("!"),)), decode_bytes, config(eos=(ord("!"),))).finish()
    assert (writer.text, bytes(writer.ids), writer.finish_reason) == ("ab", b"ab!", "stop")


def test_a_finished_row_is_written_as_one_that_streams() -> None:
    generated = Generated(np.array([[97, 98, 256], [97, 0, 0]]), np.array([3, 1]), ("stop", "cancelled"))
    first, second = (AnswerWriter(steps_of(generated, row), decode_bytes, config()).finish() for row in range(2))
    assert (first.text, first.ids, first.finish_reason) == ("ab", [97, 98, 256], "stop")
    assert (second.text, second.ids, second.finish_reason) == ("a", [97], "cancelled")


def test_log_probabilities_come_with_their_tokens() -> None:
    likely = LogProbabilities(np.array([-0.5]), np.array([[97]]), np.array([[-0.5]]))
    writer = AnswerWriter([Step(np.array([97]), np.array([True]), likely)], decode_bytes, config(1)).finish()
    assert writer.log_probabilities == [likely]
