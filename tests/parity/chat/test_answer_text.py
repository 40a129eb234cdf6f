"""Answers in pieces with the tokenizers of the recorded cases: joined, they are what each decodes as a whole."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import ChatTokenizer, open_chat_tokenizer
from internvl_edge.runtime.tasks.generation.answer import AnswerText
from internvl_edge.runtime.tasks.generation.stops import first_stop
from tests.golden_chat import CASES, golden_chat


@cache
def tokenizer_of(case: str) -> ChatTokenizer:
    return open_chat_tokenizer(golden_chat(case).checkpoint)


@pytest.mark.parametrize("case", CASES)
def test_recorded_answers(case: str) -> None:
    tokenizer, golden = tokenizer_of(case), golden_chat(case)
    for run in golden.runs:
        for row, text in zip(
            golden.tensors[f"{run}.greedy_ids"].tolist(), golden.about["runs"][run]["text"], strict=True
        ):
            answer = AnswerText(tokenizer.decode)
            assert "".join([*map(answer.append, row), answer.finish()]) == text.strip(), run


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_tokens(case: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(case)
    any_id = st.integers(0, tokenizer.size + 3)
    spaced = st.sampled_from([*(tokenizer.token_id(text) or 0 for text in ("▁", "Ġ", "'", "n", "."))])
    ids = data.draw(st.lists(st.one_of(any_id, spaced), max_size=100))
    answer = AnswerText(tokenizer.decode)
    assert "".join([*map(answer.append, ids), answer.finish()]) == tokenizer.decode(ids).strip()


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_stop_string(case: str, data: st.DataObject) -> None:
    """Where no piece of a character is left open, the text ends before the first stop string of the whole."""
    tokenizer = tokenizer_of(case)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), min_size=1, max_size=40))
    whole = tokenizer.decode(ids)
    begin = data.draw(st.integers(0, len(whole)))
    stop = whole[begin : begin + data.draw(st.integers(1, 6))]
    if not stop or "\ufffd" in whole:
        return
    answer = AnswerText(tokenizer.decode, [stop])
    pieces = []
    fed = 0
    while fed < len(ids) and not answer.stopped:
        pieces.append(answer.append(ids[fed]))
        fed += 1
    pieces.append(answer.finish())
    text = tokenizer.decode(ids[:fed])
    assert "".join(pieces) == text[: first_stop(text, [stop])].strip()
