"""What an interrupted run leaves is taken up by the same run alone, and two do not write one folder at once."""

import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from internvl_edge.export.staging import staged
from internvl_edge.runtime.errors import ExportError


def _interrupted(output: Path, key: str) -> None:
    with pytest.raises(KeyboardInterrupt), staged(output, key) as staging:  # noqa: PT012
        (staging.folder / "half").write_text("done")
        staging.finish("first", {"value": 1})
        raise KeyboardInterrupt


def test_the_same_run_takes_up_finished_stages(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _interrupted(output, "key")
    assert not output.exists()
    with staged(output, "key") as staging:
        assert staging.finished("first") == {"value": 1}
        assert staging.finished("second") is None
        assert (staging.folder / "half").exists()
    assert sorted(path.name for path in output.iterdir()) == ["half"]


def test_another_run_starts_anew(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _interrupted(output, "key of fp16")
    with staged(output, "key of fp32") as staging:
        assert staging.finished("first") is None
        assert not (staging.folder / "half").exists()


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="broken"), staged(tmp_path / "b", "k") as staging:  # noqa: PT012
        (staging.folder / "half").write_text("done")
        raise ExportError("thing: broken; mend it")
    assert list(tmp_path.iterdir()) == []


def test_an_operating_system_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No space left on device; free space"), staged(tmp_path / "b", "key"):
        raise OSError(28, "No space left on device", "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
from pathlib import Path
from internvl_edge.export.staging import staged
with staged(Path(sys.argv[1]), "key") as staging:
    (staging.folder / "half").write_text("done")
    staging.finish("first", {"value": 1})
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that is writing ``bundle`` until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "bundle")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def _refused(output: Path) -> None:
    before = sorted(output.parent.rglob("*"))
    for key in ("key", "another key"):
        with pytest.raises(ExportError, match="bundle: another process is writing it; wait"), staged(output, key):
            pass
    assert sorted(output.parent.rglob("*")) == before


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    output = tmp_path / "bundle"
    _refused(output)
    holder.communicate("")
    assert holder.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    (output / "manifest.json").touch()
    with staged(output, "key") as staging:
        assert staging.finished("first") is None
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    _refused(tmp_path / "bundle")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with staged(tmp_path / "bundle", "key") as staging:
        assert staging.finished("first") == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_lock_on_a_file_that_its_holder_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, lock, flock = tmp_path / "bundle", tmp_path / ".bundle.lock", fcntl.flock
    held = []

    def late(file: IO[str], operation: int) -> None:
        if not held:
            lock.unlink()  # the one who had it ends between our open and our lock
        held.append(file)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with staged(output, "key"):
        assert len(held) == 2
        _refused(output)


def test_a_folder_that_cannot_hold_a_lock_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = r"\.bundle\.lock: .*; choose another --output"
    with pytest.raises(ExportError, match=words), staged(tmp_path / "file" / "bundle", "key"):
        pass
