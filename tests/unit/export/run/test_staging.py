"""What an interrupted run leaves is taken up by the same run alone, and two do not write one folder at once."""

import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from internvl_edge.export.run.staging import staged
from internvl_edge.runtime.errors import ExportError

KEY = {"part": "key"}


def _interrupted(output: Path, key: str, **others: object) -> None:
    with pytest.raises(KeyboardInterrupt), staged(output, {"part": key, **others}) as staging:  # noqa: PT012
        (staging.folder / "half").write_text("done")
        staging.finish("first", {"value": 1})
        raise KeyboardInterrupt


def test_the_same_run_takes_up_finished_stages(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _interrupted(output, "key")
    assert not output.exists()
    with staged(output, KEY) as staging:
        assert staging.finished("first") == {"value": 1}
        assert staging.finished("second") is None
        assert (staging.folder / "half").exists()
    assert sorted(path.name for path in output.iterdir()) == ["half"]


def test_another_run_starts_anew(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _interrupted(output, "key of fp16")
    with staged(output, {"part": "key of fp32"}) as staging:
        assert staging.finished("first") is None
        assert not (staging.folder / "half").exists()


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"--dtype": 1, "config.json": 2}, {"--dtype": 1, "config.json": 3}, "these changed: config.json"),
        ({"config.json": 2}, {"config.json": 2, "--samples": 3}, "these changed: --samples"),
        ({"config.json": 2, "generation_config.json": 3}, {"config.json": 2}, "these changed: generation_config.json"),
        ({f"p{n}": 0 for n in range(9)}, {f"p{n}": 1 for n in range(9)}, "p0, p1, p2, p3, p4, p5 and 3 more"),
    ],
)
def test_what_changed_is_told_in_one_line(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    before: dict[str, object],
    after: dict[str, object],
    told: str,
) -> None:
    output = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt), staged(output, before):
        raise KeyboardInterrupt
    with staged(output, after) as staging:
        assert staging.finished("first") is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(told)
    assert "starting anew" in record.getMessage()


def test_a_first_run_and_the_same_run_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _interrupted(tmp_path / "bundle", "key")
    with staged(tmp_path / "bundle", KEY):
        pass
    assert caplog.records == []


@pytest.mark.parametrize("record", ["", "{", "[1]", '{"key": "of an older version", "stages": {}}'])
def test_a_record_that_is_none_starts_anew(tmp_path: Path, record: str) -> None:
    output = tmp_path / "bundle"
    _interrupted(output, "key")
    (tmp_path / ".bundle.partial" / "stages.json").write_text(record)
    with staged(output, KEY) as staging:
        assert staging.finished("first") is None


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="broken"), staged(tmp_path / "b", KEY) as staging:  # noqa: PT012
        (staging.folder / "half").write_text("done")
        raise ExportError("thing: broken; mend it")
    assert list(tmp_path.iterdir()) == []


def test_an_operating_system_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No space left on device; free space"), staged(tmp_path / "b", KEY):
        raise OSError(28, "No space left on device", "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
from pathlib import Path
from internvl_edge.export.run.staging import staged
with staged(Path(sys.argv[1]), {"part": "key"}) as staging:
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
    for key in (KEY, {"part": "another key"}):
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
    with staged(output, KEY) as staging:
        assert staging.finished("first") is None
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    _refused(tmp_path / "bundle")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with staged(tmp_path / "bundle", KEY) as staging:
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
    with staged(output, KEY):
        assert len(held) == 2
        _refused(output)


def test_a_folder_that_cannot_hold_a_lock_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = r"\.bundle\.lock: .*; choose another --output"
    with pytest.raises(ExportError, match=words), staged(tmp_path / "file" / "bundle", KEY):
        pass
