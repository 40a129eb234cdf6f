"""Captions at once and streamed: what runs how often, and what is filled and cut."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.outputs.results import lines_text, streamed_lines
from internvl_edge.runtime.stages import POSTPROCESS, TOKENIZE, Stages
from internvl_edge.runtime.tasks.captions import continue_from
from internvl_edge.runtime.tasks.generation.config import GenerationConfig


def test_vision_and_query_run_once_a_picture_whatever_the_beams(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    model.generate(pixels[:2], np.array([[1, 259]]), num_beams=3, max_new_tokens=3)
    rows = [call for call in calls if call[1] > 0]
    assert rows == [("vision", 2), ("query", 2), ("decoder", 2), ("decoder", 6), ("decoder", 6)]


def test_rows_of_different_batches_are_filled_to_one_width(model: InternVL, pixels: np.ndarray) -> None:
    ids = model.generate(pixels[:3], np.array([[1, 261], [1, 262], [1, 259]]), max_new_tokens=6)
    np.testing.assert_array_equal(ids, [[262, 263, 2, 0, 0], [263, 2, 0, 0, 0], [260, 261, 262, 263, 2]])


def test_a_stop_id_of_the_caller_replaces_the_models(model: InternVL, pixels: np.ndarray) -> None:
    assert model.generate(pixels[:1], np.array([1, 259]), eos_token_id=261).tolist() == [[260, 261]]


def test_thirty_tokens_unless_told(model: InternVL, pixels: np.ndarray) -> None:
    prompt = np.array([[1, 259]])
    assert model.generate(pixels[:1], prompt, min_new_tokens=30).shape == (1, 30)
    for call in (model.generate, model.caption, model.stream):
        with pytest.raises(InputError, match="30"):
            call(pixels[:1], prompt if call == model.generate else "cat", min_new_tokens=31)  # type: ignore[operator]


def test_captions_are_the_decoded_ids(model: InternVL, pixels: np.ndarray, golden_a: Path) -> None:
    tokenizer = Tokenizer(golden_a / "checkpoint" / "tokenizer.model")
    prompt = tokenizer.encode_prompt("cat")
    ids = model.generate(pixels[:1], prompt, max_new_tokens=3)
    assert model.caption(pixels[:1], "cat", max_new_tokens=3) == [tokenizer.decode(ids[0])]


def test_streamed_pieces_are_the_captions(model: InternVL, pixels: np.ndarray) -> None:
    captions = model.caption(pixels, "cat", max_new_tokens=7)
    pieces = list(model.stream(pixels, "cat", max_new_tokens=7))
    batches = [piece.picture // 2 for piece in pieces]
    assert batches == sorted(batches)
    assert ["".join(piece.text for piece in pieces if piece.picture == index) for index in range(5)] == captions


def test_who_stops_asking_for_pieces_stops_the_work(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    pieces = model.stream(pixels, "cat", max_new_tokens=9, min_new_tokens=9)
    assert calls == []
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    rows = [call for call in calls if call[1] > 0]
    assert [graph for graph, _ in rows[:3]] == ["vision", "query", "decoder"]
    assert len(rows) < 9  # of one batch of three, and not all of its steps
    assert list(pieces) == []


def test_streaming_checks_before_it_runs(model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        model.stream(pixels, max_new_tokens=0)
    with pytest.raises(InputError, match="positions, the model has 40"):
        model.stream(pixels, "a" * 1_000_000)
    assert calls == []


def test_lines_are_printed_piece_by_piece_as_they_would_be_at_once(model: InternVL, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        Image.new("RGB", (5, 5), (index * 90, 0, 0)).save(path)
    captions = model.caption(paths, "cat", max_new_tokens=7)

    def pieces(image: object) -> Iterator[str]:
        return (piece.text for piece in model.stream([image], "cat", max_new_tokens=7))

    streamed = "".join(streamed_lines(paths, pieces))
    assert streamed == lines_text(paths, captions) + "\n"
    with pytest.raises(InputError, match=r"absent\.png"):
        next(streamed_lines([*paths, tmp_path / "absent.png"], pieces))


def test_a_requests_stages_go_to_its_end(model: InternVL, pixels: np.ndarray) -> None:
    stages = Stages()
    model.caption(pixels[:1], "cat", max_new_tokens=2, monitor=Monitor(stages=stages))
    assert {span.stage for span in stages.spans} == {TOKENIZE, POSTPROCESS}  # graphs here keep no time


def test_positions_are_used_up_to_the_last(model: InternVL, pixels: np.ndarray) -> None:
    prompt = np.full((1, 30), 100)  # 2 queries + 30 + 9 - 1 = 40 positions
    assert model.generate(pixels[:1], prompt, max_new_tokens=9).shape == (1, 9)
    with pytest.raises(InputError, match="41 positions, the model has 40"):
        model.generate(pixels[:1], prompt, max_new_tokens=10)
    with pytest.raises(InputError, match="41 positions"):
        model.encode_text(np.ones((1, 41), np.int64))
    with pytest.raises(InputError, match="41 positions"):
        model.match(pixels[:1], np.ones((1, 39), np.int64))


WAY = ("captions.py", "preprocess.py", "decode.py", "opened.py")


def test_a_picture_passes_few_files_and_none_twice(
    model: InternVL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hands a picture of `run caption` on, to the graph and back: six files, none of which is entered again.

    commands/run/caption.py, runtime/tasks/captions.py, from there runtime/inputs/pictures/preprocess.py and decode.py,
    then runtime/tasks/opened.py and the backend's session, such as runtime/backends/onnxruntime.py. The methods of
    `InternVL` are the functions of the tasks, so that runtime/model.py is not passed.
    """
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    model.caption([tmp_path / "a.png"], "cat", max_new_tokens=2)  # opens the graphs
    calls: set[tuple[str, str]] = set()

    def record(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_back is not None:
            calls.add((Path(frame.f_back.f_code.co_filename).name, Path(frame.f_code.co_filename).name))

    sys.setprofile(record)
    try:
        model.caption([tmp_path / "a.png"], "cat", max_new_tokens=2)
    finally:
        sys.setprofile(None)
    handed = {(here, there) for here, there in calls if here in WAY and there in WAY and here != there}
    assert handed == {("captions.py", "preprocess.py"), ("preprocess.py", "decode.py"), ("captions.py", "opened.py")}
    assert ("opened.py", "fake_graphs.py") in calls
    assert not any("model.py" in call for call in calls)


@pytest.mark.parametrize("call", ["generate", "stream", "caption"])
def test_no_picture_is_refused(model: InternVL, calls: list[tuple[str, int]], call: str) -> None:
    prompt = np.array([[1, 259]]) if call == "generate" else "cat"
    with pytest.raises(InputError, match="no picture given; give at least one"):
        getattr(model, call)([], prompt)
    assert [graph for graph, rows in calls if rows > 0] == []


@pytest.mark.parametrize(
    ("prompts", "reported"),
    [([[1, 259]] * 3, "2 pictures but prompts [3, 2]"), ([[]], "2 pictures but prompts [1, 0]")],
)
def test_prompts_that_do_not_match_the_pictures(
    model: InternVL, pixels: np.ndarray, prompts: list[list[int]], reported: str
) -> None:
    with pytest.raises(InputError, match="give one, or one a picture") as caught:
        model.generate(pixels[:2], np.array(prompts, np.int64))
    assert reported in str(caught.value)


def test_several_prompts_go_on_from_one_query(
    model: InternVL, calls: list[tuple[str, int]], pixels: np.ndarray
) -> None:
    states = model.run_graph("vision", {"pixel_values": pixels[:2]})["vision_states"]
    query = model.run_graph("query", {"vision_states": states})
    config = GenerationConfig(max_new_tokens=3, eos_token_ids=(2,))
    for first in (259, 261):
        found = continue_from(model, query, np.array([[1, first]] * 2), config)
        np.testing.assert_array_equal(found, model.generate(pixels[:2], np.array([[1, first]]), max_new_tokens=3))
