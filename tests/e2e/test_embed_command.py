"""`run embed` as a user runs it: formats, tables, what is left out, and runs that are killed or interrupted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from tests.e2e.conftest import Run, without_stages
from tests.tolerances import HANG_S


@pytest.fixture
def listed(tmp_path: Path, emoji: Path) -> Path:
    """A table of 60 of the demo's pictures, which are in the archive beside it."""
    (tmp_path / "list.zip").symlink_to(emoji / "data" / "test.zip")
    return write_list(tmp_path / "list.jsonl", emoji, 60)


@pytest.fixture
def long_list(tmp_path: Path, emoji: Path) -> Path:
    """Enough pictures for a signal to come in the middle."""
    (tmp_path / "long.zip").symlink_to(emoji / "data" / "test.zip")
    return write_list(tmp_path / "long.jsonl", emoji, 1400)


def write_list(path: Path, emoji: Path, count: int) -> Path:
    lines = (emoji / "data" / "test.jsonl").read_text("utf-8").split("\n")[:count]
    path.write_text("\n".join(lines), "utf-8")
    return path


def names(path: Path) -> list[str]:
    return [Path(json.loads(line)["image"]).name for line in path.read_text("utf-8").splitlines()]


def test_sixty_pictures_in_every_format(run: Run, demo_bundle: Path, listed: Path) -> None:
    for suffix in ("npy", "npz", "parquet"):
        output = listed.with_name(f"f.{suffix}")
        done = run("run", "embed", demo_bundle, listed, "-o", output, "--batch-size", 16, "--threads", 1)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{output}: image_embeds [60, 128]; ")
        assert done.stdout.endswith(" a second\n")
        assert done.stderr == ""
    rows = np.load(listed.with_name("f.npy"))
    with np.load(listed.with_name("f.npz")) as arrays:
        np.testing.assert_array_equal(arrays["image_embeds"], rows)
    table = parquet.read_table(listed.with_name("f.parquet"))
    np.testing.assert_array_equal(np.stack(table["image_embeds"].to_numpy()), rows)
    files = [Path(json.loads(line)["file"]).name for line in listed.read_text("utf-8").split("\n")]
    assert names(listed.with_name("f.names.jsonl")) == files
    assert [Path(name).name for name in table["image"].to_pylist()] == files


def test_a_column_of_texts_one_of_a_million_characters(run: Run, demo_bundle: Path, tmp_path: Path) -> None:
    rows = [{"caption": "a red kite"}, {"caption": ["two boats", "a red kite"]}, {"caption": "kite " * 200_000}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "t.npy"
    arguments = ["--text-column", "caption", "-o", output, "--dtype", "float16"]
    done = run("run", "embed", demo_bundle, tmp_path / "t.jsonl", *arguments)
    assert done.returncode == 0, done.stderr
    assert "tokens cut to 80: 'kite kite" in done.stderr
    assert len(done.stderr) < 300
    features = np.load(output)
    assert (features.dtype, features.shape) == (np.float16, (4, 128))
    np.testing.assert_array_equal(features[0], features[2])


def test_what_cannot_be_read_is_left_out_when_asked_to(
    run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    output, inputs = tmp_path / "f.npz", [pictures, tmp_path / "bad.png", tmp_path / "gone.png", pictures / "0000.png"]
    failed = run("run", "embed", demo_bundle, *inputs, "-o", output)
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "bad.png (not a picture)" in failed.stderr
    assert "gone.png (no such file); repair them, or run again with --on-error skip" in failed.stderr
    assert not output.exists()
    done = run("run", "embed", demo_bundle, *inputs, "-o", output, "--on-error", "skip")
    assert done.returncode == 0, done.stderr
    assert "image_embeds [9, 128]" in done.stdout
    assert "2 left out, see" in done.stdout
    left_out = [json.loads(line)["input"] for line in (tmp_path / "f.bad.jsonl").read_text().splitlines()]
    assert left_out == [str(tmp_path / "bad.png"), str(tmp_path / "gone.png")]
    with np.load(output) as arrays:
        np.testing.assert_array_equal(arrays["image_embeds"][0], arrays["image_embeds"][8])  # the same picture twice


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["empty", "-o", "f.npy"], "empty: no picture found; give a folder of pictures"),
        (["-o", "f.npy"], "neither pictures nor texts given"),
        (["picture.png", "-o", "f.txt"], "f.txt: no known format; name it *.npz, *.npy, *.parquet"),
        (["picture.png", "-o", "gone/f.npy"], "its folder is not there"),
        (["picture.png", "-t", "a", "-o", "f.npy"], "has no place for -t"),
        (["empty", "--text-column", "caption", "-o", "f.npy"], "no table; give a .jsonl or .parquet"),
    ],
)
def test_bad_input_is_one_line(run: Run, demo_bundle: Path, tmp_path: Path, arguments: list[str], found: str) -> None:
    (tmp_path / "empty").mkdir()
    done = run("run", "embed", demo_bundle, *arguments, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert found in done.stderr


def stopped(arguments: list[object], shard: Path, number: signal.Signals) -> "subprocess.CompletedProcess[str]":
    """Start a run, send it a signal once `shard` is whole, and return how it ended."""
    command = [sys.executable, "-m", "internvl_edge.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + HANG_S
    while not shard.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(1e-3)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=HANG_S)
    return subprocess.CompletedProcess(command, process.returncode, stdout, without_stages(stderr))


def test_a_run_that_is_stopped_goes_on_and_writes_the_same_file(run: Run, demo_bundle: Path, long_list: Path) -> None:
    whole, output, partial = (long_list.with_name(name) for name in ("whole.npy", "f.npy", ".f.npy.partial"))
    settings: list[object] = ["run", "embed", demo_bundle, long_list, "--threads", 1, "--mode", "c", "-o"]
    done = run(*settings, whole)
    assert done.returncode == 0, done.stderr
    interrupted = stopped([*settings, output], partial / "000000.json", signal.SIGINT)
    kept = len(list(partial.glob("[0-9]*.json"))) * 256
    line = f"{output}: interrupted, {kept} rows are kept in .f.npy.partial; the same command goes on there\n"
    assert (interrupted.returncode, interrupted.stdout, interrupted.stderr) == (130, "", line)
    killed = stopped([*settings, output], partial / f"{kept // 256:06d}.json", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    kept = len(list(partial.glob("[0-9]*.json"))) * 256
    other = run(*settings, output, "--mode", "g")
    assert other.returncode == 1
    assert "unfinished run with other settings (mode c instead of g)" in other.stderr
    done = run(*settings, output)
    assert done.returncode == 0, done.stderr
    assert f"{kept} were there from an earlier run" in done.stdout
    assert output.read_bytes() == whole.read_bytes()
    assert not list(long_list.parent.glob(".f*"))
