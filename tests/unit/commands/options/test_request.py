"""The options of a request: what the bundle is opened with, what is shown, and that it is closed."""

from pathlib import Path
from unittest.mock import Mock

import click
import pytest
from PIL import Image

from internvl_edge.commands.options.request import Request, open_with_progress, request_options, work_progress
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.stages import COMPUTE, UNMEASURED, Stages
from internvl_edge.runtime.tasks.opened import BATCH_SIZE
from tests.unit.commands.conftest import Invoke

PLAIN = Request(backend="auto", threads=None, bf16=False, max_pixels=None, latency=False)


def test_options_become_one_request(invoke: Invoke) -> None:
    found = []

    @click.command()
    @click.argument("name")
    @request_options
    def command(name: str, request: Request) -> None:
        found.append((name, request))

    invoke(command, "a")
    invoke(command, "b", "--backend openvino --threads 2 --bf16 --max-pixels 9 --latency")
    assert found == [
        ("a", PLAIN),
        ("b", Request(backend="openvino", threads=2, bf16=True, max_pixels=9, latency=True)),
    ]


@pytest.mark.parametrize(("batch_size", "rows", "opened_for"), [(None, 1, BATCH_SIZE), (7, 7, 7)])
def test_a_bundle_is_opened_for_the_rows_of_a_call(
    model: Mock, batch_size: int | None, rows: int, opened_for: int
) -> None:
    request = Request(backend="openvino", threads=2, bf16=True, max_pixels=None, latency=False)
    with request.open(Path("b"), batch_size) as (opened, stages):
        assert opened is model
        assert stages is UNMEASURED
    model.opened.assert_called_once_with(
        Path("b"),
        backend="openvino",
        batch_size=opened_for,
        options=SessionOptions(threads=2, bf16=True, rows=rows),
    )
    model.close.assert_called_once_with()


def test_a_request_that_fails_closes_the_model_and_shows_no_times(
    model: Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    request = Request(backend="auto", threads=None, bf16=False, max_pixels=None, latency=True)
    with pytest.raises(ValueError, match="of the task"), request.open(Path("b")):
        raise ValueError("of the task")
    model.close.assert_called_once_with()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("model")
def test_times_are_shown_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    request = Request(backend="auto", threads=None, bf16=False, max_pixels=None, latency=True)
    with request.open(Path("b")) as (_model, stages), stages.stage(COMPUTE, "vision"):
        pass
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "vision" in shown.err


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("given", "limit"), [(1234, 1234), (0, None)])
def test_the_limit_of_pixels_is_set_before_a_picture_is_read(
    monkeypatch: pytest.MonkeyPatch, given: int, limit: int | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    request = Request(backend="auto", threads=None, bf16=False, max_pixels=given, latency=False)
    with request.open(Path("b")):
        assert limit == Image.MAX_IMAGE_PIXELS


def test_open_with_progress_passes_its_settings_on(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Mock(return_value="model")
    monkeypatch.setattr(InternVL, "open", opened)
    assert open_with_progress(Path("b"), backend="auto", batch_size=3) == "model"
    opened.assert_called_once_with(Path("b"), backend="auto", batch_size=3)


def test_work_that_is_short_prints_nothing_and_keeps_its_times(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages()
    with work_progress(stages, "Ranking", 2) as monitor:
        assert monitor.stages is stages
        monitor.advance(2)
    assert capsys.readouterr() == ("", "")
