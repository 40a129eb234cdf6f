"""Errors for pictures that the server cannot use name the pictures' kind and nothing of the server."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import BadRequestError, RefusalError, TooLargeError
from internvl_edge.runtime.serve.workers.messages import Job
from internvl_edge.runtime.serve.workers.model_runner import ModelRunner
from tests.unit.runtime.serve.onnx_bundle import write_onnx_bundle


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelRunner]:
    before = Image.MAX_IMAGE_PIXELS
    folder = write_onnx_bundle(tmp_path_factory.mktemp("served") / "bundle")
    made = ModelRunner(InternVL.open(folder, backend="onnxruntime"), ServeOptions(max_pixels=10_000))
    yield made
    made.close()
    Image.MAX_IMAGE_PIXELS = before


def refusal(runner: ModelRunner, content: bytes) -> RefusalError:
    job = Job(
        id=0,
        model="encode_image",
        parts=({"image": np.array([content, None], np.object_)[:1]},),
        shared={},
        parameters={"mode": "c"},
        outputs=None,
    )
    (result,) = runner.answer(runner.prepare(job))
    assert isinstance(result, RefusalError)
    return result


def encoded(kind: str, size: tuple[int, int] = (64, 64)) -> bytes:
    target = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(target, kind)
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded("eps"), "PostScript (EPS), which is not read: convert it to PNG or JPEG"),
        (encoded("pdf"), "a PDF document, which is not read"),
        (encoded("png")[:900], "a PNG picture that is broken or cut off"),
        (encoded("jpeg")[:900], "a JPEG picture that is broken or cut off"),
        (encoded("tiff")[:900], "a TIFF picture that is broken or cut off"),
        (encoded("webp")[:200], "a WEBP picture that is broken or cut off"),
        (b"/etc/passwd", "not a picture"),
        (b"<html>", "not a picture: an HTML page"),
        (b"", "not a picture: an empty file"),
    ],
)
def test_a_refusal_says_what_the_picture_is(runner: ModelRunner, content: bytes, words: str) -> None:
    found = refusal(runner, content)
    assert isinstance(found, BadRequestError)
    assert str(found) == f"encode_image: image cannot be read ({words})" or words in str(found)
    assert not any(word in str(found) for word in ("0x", "<", "/", "Error"))


def test_no_program_is_started(runner: ModelRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\necho 10.0\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    refusal(runner, encoded("eps"))
    assert not (tmp_path / "started").exists()


def test_too_many_pixels_are_another_refusal(runner: ModelRunner) -> None:
    found = refusal(runner, encoded("png", (101, 100)))
    assert isinstance(found, TooLargeError)
    assert str(found) == "encode_image: image has more than 10000 pixels"
