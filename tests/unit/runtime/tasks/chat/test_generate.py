"""Ids after prompts that are ids: batches with padding in front, ids that end a row, and prompts that do not fit."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.tasks.chat.generate import generate_chat
from tests.unit.runtime.chat_bundles import LETTERS
from tests.unit.runtime.chat_fakes import END, scripted_chat
from tests.unit.runtime.tasks.chat.test_chat import echo


@pytest.fixture
def model(tmp_path: Path) -> InternVL:
    return scripted_chat(tmp_path / "chat", echo)[0]


def test_each_prompt_of_a_batch_gets_its_ids(model: InternVL) -> None:
    pixels = np.zeros((3, 3, 4, 4), np.float32)
    long = model.chat_prompt("abcdef", [3]).input_ids
    short = model.chat_prompt("abc").input_ids
    width = len(long)
    rows = [long, [258] * (width - len(short)) + short]
    mask = [[1] * width, [0] * (width - len(short)) + [1] * len(short)]
    found = generate_chat(model, pixels, rows, np.array(mask), max_new_tokens=9)
    tokens = model.chat_tokenizer
    assert tokens.decode(found[0].tolist()) == "fedcba"
    assert found.shape == (2, 7)
    assert found[1].tolist() == [*tokens.encode("cba", whole=False), END, 258, 258, 258]


B = LETTERS.index("b")


@pytest.mark.parametrize(("ends", "length"), [(None, 4), ((), 6), (B, 2), ((B, END), 2), ([END], 4), (np.int64(B), 2)])
def test_ids_that_end_a_row(model: InternVL, ends: int | Sequence[int] | None, length: int) -> None:
    prompt = model.chat_prompt("abc").input_ids
    found = generate_chat(model, None, prompt, max_new_tokens=6, eos_token_id=ends)
    expected = [*model.chat_tokenizer.encode("cba", whole=False), END, END, END]
    assert found.tolist() == [expected[:length]]


@pytest.mark.parametrize(
    ("pixels", "ids", "finding"),
    [
        (None, [[1, 263, 263]], "2 context tokens stand for pictures, but there is no tile"),
        (np.zeros((1, 3, 4, 4)), [[1, 2]], "0 context tokens stand for pictures, but there is 1 tiles"),
        (None, [[1, 2], [3]], "rows of different lengths"),
        (None, [[1, 999]], re.escape("ids [999] are not in the table of 300 tokens")),
        (None, [[]], "input_ids are"),
    ],
)
def test_prompts_that_do_not_fit(model: InternVL, pixels: Any, ids: Any, finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        generate_chat(model, pixels, ids)
