"""Results of `run` as text and as rows: the best first, and nothing twice."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.outputs.results import (
    caption_rows,
    lines_text,
    ranking_rows,
    ranking_text,
    require_unlike,
    streamed_lines,
)

SCORES = np.array([[0.5, 2.0, -1.0]])


def test_rows_hold_every_score_best_first() -> None:
    rows = ranking_rows([Path("a.png")], ["x", "y", "z"], SCORES)
    assert rows == [{"image": "a.png", "scores": {"y": 2.0, "x": 0.5, "z": -1.0}}]
    assert list(rows[0]["scores"]) == ["y", "x", "z"]


def test_text_holds_the_best_five() -> None:
    text = ranking_text(["a.png"], [str(index) for index in range(7)], np.arange(7.0)[None])
    assert text.splitlines() == ["a.png", *(f"  {float(index):8.3f}  {index}" for index in (6, 5, 4, 3, 2))]


def test_values_that_are_given_twice_are_named() -> None:
    require_unlike("--label", ["a", "b"])
    with pytest.raises(InputError, match="--label: given more than once: 'a', 'c'; give each one time"):
        require_unlike("--label", ["a", "c", "a", "b", "c", "c"])


def test_captions_as_rows_and_lines() -> None:
    assert caption_rows(["a", Path("b")], ["x", "y"]) == [
        {"image": "a", "caption": "x"},
        {"image": "b", "caption": "y"},
    ]
    assert lines_text(["a", "b"], ["x", "y"]) == "a: x\nb: y"
    with pytest.raises(ValueError, match="zip"):
        lines_text(["a", "b"], ["x"])


def test_pieces_are_the_lines_and_every_picture_is_looked_at_before_the_first_is_captioned(tmp_path: Path) -> None:
    asked = []

    def caption(image: object) -> Iterator[str]:
        asked.append(image)
        yield from ("a ", "kite")

    good, bad = tmp_path / "a.png", tmp_path / "gone.png"
    Image.new("RGB", (2, 2)).save(good)
    assert "".join(streamed_lines([good, good], caption)) == f"{good}: a kite\n{good}: a kite\n"
    asked.clear()
    with pytest.raises(InputError, match=r"gone\.png"):
        next(streamed_lines([good, bad], caption))
    assert asked == []
