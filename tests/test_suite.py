"""What the suite itself rests on: files in the order of their seconds, and results that are made once."""

import json
import threading
import time
from pathlib import Path

import pytest

from tests.exports import Exports
from tests.project import ROOT


def test_the_files_that_come_first_are_there() -> None:
    """Where one was moved, `pytest --measure` writes the table anew."""
    seconds = json.loads((ROOT / "tests" / "seconds.json").read_text())
    assert [name for name in seconds if not (ROOT / name).is_file()] == []


def test_a_result_is_made_once_whoever_asks(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> str:
        (folder / "file").write_text("content")
        time.sleep(0.05)  # the others wait for it
        made.append(folder)
        return "report"

    found: list[tuple[Path, str]] = []
    asking = [threading.Thread(target=lambda: found.append(Exports(tmp_path).once("options", make))) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert found == [(made[0], "report")] * 4
    assert len(made) == 1
    assert Exports(tmp_path).once("others", make)[0] != made[0]


def test_what_a_failed_attempt_left_is_no_result(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Exports(tmp_path).once("options", fail)
    folder, report = Exports(tmp_path).once("options", lambda folder: [path.name for path in folder.iterdir()])
    assert report == []
    assert folder.is_dir()
