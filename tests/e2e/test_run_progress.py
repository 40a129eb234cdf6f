"""The log of `run` on many pictures."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from internvl_edge.cli import main
from internvl_edge.commands.output import progress

COUNT = 40


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{index:02}.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        (("classify", "-l", "gem", "-l", "flag"), "Classifying"),
        (("retrieve", "-t", "gem"), "Ranking"),
        (("caption", "--max-new-tokens", "1"), "Captioning"),
    ],
)
def test_long_work_says_how_many_pictures_are_done(
    demo_bundle: Path, pictures: Path, arguments: tuple[str, ...], label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    command, *options = arguments
    done = CliRunner().invoke(
        main, ["run", command, str(demo_bundle), str(pictures), *options, "--backend", "onnxruntime"]
    )
    assert done.exit_code == 0, done.output
    assert f"{label}: {COUNT} pictures in " in done.stderr
    assert label not in done.stdout
