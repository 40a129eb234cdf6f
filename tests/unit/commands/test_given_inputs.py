"""What is given to a command as input: nothing empty, and one limit of pixels for all that read pictures."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from click.testing import CliRunner
from PIL import Image
from pyarrow import parquet

from internvl_edge.cli import main


@pytest.fixture
def limit() -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = before


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "", "-o", "b"],
        ["export", "c", "-o", ""],
        ["export", "c", "-o", "b", "--samples", ""],
        ["export", "c", "-o", "b", "--data", " "],
        ["export", "c", "-o", "b", "--ranges", ""],
        ["calibrate", "", "-o", "r"],
        ["calibrate", "c", "-o", "r", "--data", ""],
        ["calibrate", "c", "-o", "r", "--merge", ""],
        ["eval", "", "--data", "d"],
        ["eval", "b", "--data", ""],
        ["eval", "b", "--data", "d", "--baseline", ""],
        ["compare", "a", "", "--data", "d"],
        ["compare", "a", "b", "--data", ""],
        ["run", "embed", "b", "", "-o", "f.npy"],
        ["run", "embed", "b", "in", "-o", ""],
        ["run", "classify", "b", "a.png", "", "-l", "x"],
        ["run", "retrieve", "b", "", "-t", "x"],
        ["run", "caption", "", "a.png"],
        ["run", "connect", "b", "", "-o", "f.npz"],
        ["run", "video", "b", "", "-t", "x"],
        ["inspect", ""],
        ["bench", ""],
        ["serve", ""],
    ],
)
def test_an_empty_argument_is_not_the_current_folder(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2, done.output
    assert "is empty; is a variable of the shell unset?" in done.output


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "gone", "-o", "b"],
        ["calibrate", "gone", "-o", "r", "--data", "d"],
        ["eval", "gone", "--data", "d"],
        ["compare", "gone", "gone", "--data", "d"],
    ],
)
def test_the_limit_of_pixels_is_that_of_every_command(arguments: list[str]) -> None:
    CliRunner().invoke(main, [*arguments, "--max-pixels", "1234"])
    assert Image.MAX_IMAGE_PIXELS == 1234
    CliRunner().invoke(main, [*arguments, "--max-pixels", "0"])
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "embed", "b", "t.parquet", "-o", "t.parquet"], "t.parquet"),
        (["run", "embed", "b", "t.names.jsonl", "--text-column", "image", "-o", "t.npy"], "t.names.jsonl"),
        (["run", "embed", "b", "t.bad.jsonl", "-o", "t.npz"], "t.bad.jsonl"),
        (["inspect", "--engine", "t.npz", "--html", "t.npz"], "t.npz"),
        (["run", "connect", "b", "t.npz", "-o", "./t.npz"], "t.npz"),
    ],
)
def test_an_input_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"file": ["a.png"], "image": ["a.png"]}
    parquet.write_table(pyarrow.table(row), "t.parquet")
    for name in ("t.names.jsonl", "t.bad.jsonl", "t.npz"):
        Path(name).write_text('{"file": "a.png", "image": "a.png"}\n')
    before = Path(named).read_bytes()
    done = CliRunner().invoke(main, arguments)
    assert f"{named}: would replace what is read; give another name" in done.output
    assert Path(named).read_bytes() == before
