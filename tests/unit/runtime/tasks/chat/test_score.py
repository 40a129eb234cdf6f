"""The probability of an answer, against values worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.tasks.chat.score import score
from tests.unit.runtime.chat_fakes import scripted_chat
from tests.unit.runtime.tasks.chat.test_chat import echo


@pytest.fixture
def model(tmp_path: Path) -> InternVL:
    return scripted_chat(tmp_path / "chat", echo)[0]


@pytest.fixture
def wide() -> Image.Image:
    return Image.new("RGB", (8, 4), (200, 0, 0))


TOKEN = 10 - float(np.log(np.exp(10) + 299))
OTHER = -float(np.log(np.exp(10) + 299))


def test_the_stop_token_counts(model: InternVL) -> None:
    assert score(model, "abc", "cba") == pytest.approx(TOKEN, abs=1e-5)


def test_another_answer_is_less_probable(model: InternVL) -> None:
    # c as expected; then the script goes on by place: b for x, a for a, and its end
    assert score(model, "abc", "cxa") == pytest.approx((3 * TOKEN + OTHER) / 4, abs=1e-5)


def test_pictures_and_history_count(model: InternVL, wide: Image.Image) -> None:
    history = model.chat("abc", [wide]).history
    assert score(model, "def", "fed", history=history) == pytest.approx(TOKEN, abs=1e-5)
    assert score(model, "def", "fed", [wide], [*history]) == pytest.approx(TOKEN, abs=1e-5)


@pytest.mark.parametrize("answer", ["", "  ", None])
def test_an_empty_answer(model: InternVL, answer: Any) -> None:
    with pytest.raises(InputError, match=r"^answer: is empty"):
        score(model, "abc", answer)
