"""Jobs on a model whose graphs are NumPy functions: tasks, parts that fail alone, and captions piece by piece."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import BadRequestError, FailedError
from internvl_edge.runtime.serve.workers.messages import Job, Piece
from internvl_edge.runtime.serve.workers.model_runner import ModelRunner
from internvl_edge.runtime.tasks import opened as opened_module
from tests.unit.runtime.fake_graphs import FakeSession


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    recorded: list[tuple[str, int]] = []

    def open_session(backend: str, bundle: Bundle, graph: str, options: SessionOptions) -> FakeSession:
        return FakeSession(graph, recorded)

    monkeypatch.setattr(opened_module, "open_session", open_session)
    return recorded


@pytest.fixture
def model(bundle_folder: Path, calls: list[tuple[str, int]]) -> InternVL:
    return InternVL.open(bundle_folder)


@pytest.fixture
def runner(model: InternVL) -> Iterator[ModelRunner]:
    before = Image.MAX_IMAGE_PIXELS
    made = ModelRunner(model, ServeOptions())
    yield made
    made.close()
    Image.MAX_IMAGE_PIXELS = before


def strings(*values: bytes) -> np.ndarray:
    return np.array([*values, None], np.object_)[:-1]


def picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def job(model: str, *parts: dict[str, np.ndarray], **more: Any) -> Job:
    settings: dict[str, Any] = {"shared": {}, "parameters": {}, "outputs": None}
    return Job(id=7, model=model, parts=parts, **(settings | more))


def answers(runner: ModelRunner, asked: Job) -> tuple[Any, ...]:
    return runner.answer(runner.prepare(asked))


def test_parts_are_computed_together_and_cut_apart(
    runner: ModelRunner, model: InternVL, calls: list[tuple[str, int]]
) -> None:
    first, second = answers(
        runner, job("encode_text", {"text": strings(b"cat")}, {"text": strings(b"kite", b"two boats")})
    )
    np.testing.assert_array_equal(first["embedding"], model.encode_text(["cat"]))
    np.testing.assert_array_equal(second["embedding"], model.encode_text(["kite", "two boats"]))
    assert calls[0] == ("text", 3)


def test_pictures_have_the_features_of_the_mode(runner: ModelRunner, model: InternVL) -> None:
    (found,) = answers(runner, job("encode_image", {"image": strings(picture(90))}, parameters={"mode": "g"}))
    expected = model.encode_image([Image.new("RGB", (4, 4), (90, 90, 90))], "g")
    np.testing.assert_allclose(found["embedding"], expected, rtol=1e-6)


@pytest.mark.parametrize("templates", [None, (b"a {}", b"the {}")])
def test_classes_are_kept_for_the_next_job(
    runner: ModelRunner, model: InternVL, calls: list[tuple[str, int]], templates: "tuple[bytes, ...] | None"
) -> None:
    shared = {"labels": strings(b"cat", b"kite")} | ({"templates": strings(*templates)} if templates else {})
    asked = job("classify", {"image": strings(picture(90))}, shared=shared, parameters={"mode": "c"})
    (found,) = answers(runner, asked)
    given = [each.decode() for each in templates] if templates else None
    expected = model.classify([Image.new("RGB", (4, 4), (90, 90, 90))], ["cat", "kite"], given, mode="c")
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-4)
    texts = [call for call in calls if call[0] == "text" and call[1] > 0]
    answers(runner, asked)
    assert [call for call in calls if call[0] == "text" and call[1] > 0] == texts, "no text is encoded again"


def test_the_classes_of_long_ago_make_room(runner: ModelRunner, calls: list[tuple[str, int]]) -> None:
    def ask(label: bytes) -> None:
        shared = {"labels": strings(label)}
        answers(runner, job("classify", {"image": strings(picture(9))}, shared=shared, parameters={"mode": "c"}))

    for index in range(33):
        ask(str(index).encode())
    texts = sum(call[0] == "text" for call in calls)
    ask(b"32")
    assert sum(call[0] == "text" for call in calls) == texts
    ask(b"0")
    assert sum(call[0] == "text" for call in calls) > texts


def test_captions_are_utf8(runner: ModelRunner, model: InternVL) -> None:
    parameters = {"max_new_tokens": 3, "num_beams": 2}
    (found,) = answers(runner, job("caption", {"image": strings(picture(90))}, parameters=parameters))
    expected = model.caption([Image.new("RGB", (4, 4), (90, 90, 90))], num_beams=2, max_new_tokens=3)
    assert found["text"].tolist() == [expected[0].encode()]


def test_pieces_belong_to_their_row_and_the_last_message_has_the_results(runner: ModelRunner) -> None:
    asked = job(
        "caption",
        {"image": strings(picture(90))},
        {"image": strings(b"no picture")},
        {"image": strings(picture(9), picture(200))},
        parameters={"max_new_tokens": 4},
        stream=True,
    )
    *pieces, results = runner.stream(runner.prepare(asked))
    assert {(piece.id, piece.part, piece.row) for piece in pieces} == {(7, 0, 0), (7, 2, 0), (7, 2, 1)}
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert isinstance(results[1], BadRequestError)
    assert (results[0], results[2]) == ({}, {})


def test_a_stream_without_a_picture_that_can_be_read_runs_nothing(
    runner: ModelRunner, calls: list[tuple[str, int]]
) -> None:
    asked = job("caption", {"image": strings(b"no picture")}, parameters={}, stream=True)
    (results,) = runner.stream(runner.prepare(asked))
    assert isinstance(results[0], BadRequestError)
    assert calls == []


def test_a_stream_that_fails_fails_for_all_its_parts(
    runner: ModelRunner, model: InternVL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(model, "stream", fail)
    asked = job("caption", *({"image": strings(picture(9))} for _ in range(2)), parameters={}, stream=True)
    (results,) = runner.stream(runner.prepare(asked))
    assert [type(result) for result in results] == [FailedError, FailedError]
    assert "secret" not in str(results[0])


def test_a_part_that_fails_fails_alone(runner: ModelRunner, model: InternVL, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = model.encode_text

    def fail(texts: Any, *arguments: Any) -> np.ndarray:
        if "bad" in texts:
            raise RuntimeError("/secret/path")
        return encode(texts, *arguments)

    monkeypatch.setattr(model, "encode_text", fail)
    good, bad = answers(runner, job("encode_text", {"text": strings(b"cat")}, {"text": strings(b"bad")}))
    np.testing.assert_array_equal(good["embedding"], encode(["cat"]))
    assert isinstance(bad, FailedError)


def test_a_string_is_no_encoded_picture(runner: ModelRunner) -> None:
    asked = job("encode_image", {"image": np.array(["/etc/passwd", None], np.object_)[:1]}, parameters={"mode": "c"})
    (found,) = answers(runner, asked)
    assert isinstance(found, BadRequestError | FailedError)
    assert "passwd" not in str(found)
