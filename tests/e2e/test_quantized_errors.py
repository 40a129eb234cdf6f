"""Bad input of `calibrate` and `export --precision`: exit code, one line with the remedy, nothing half-written."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.e2e.conftest import Run
from tests.exports import Exports
from tests.tolerances import HANG_S


@pytest.fixture(scope="module")
def data(emoji: Path) -> Path:
    return emoji / "data" / "calibration.jsonl"


@pytest.fixture(scope="module")
def ranges(exports: Exports, emoji: Path, data: Path) -> Path:
    return exports.ranges(emoji / "checkpoint", data=str(data), sample_count=16)


def refused(run: Run, output: Path, *arguments: object) -> str:
    """Return the one line of an error that left nothing."""
    done = run(*arguments, "-o", output)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()
    assert list(output.parent.glob(f".{output.name}*")) == []
    return done.stderr.strip().splitlines()[-1]


def pictures(folder: Path, count: int, *, flat: bool = False) -> Path:
    folder.mkdir()
    for index in range(count):
        size = (1, 1) if flat else (index + 2, index + 3)
        Image.effect_noise(size, 64).convert("RGB").resize((80, 80)).save(folder / f"{index:02}.png")
    return folder


def test_too_few_samples(run: Run, emoji: Path, tmp_path: Path) -> None:
    few = pictures(tmp_path / "few", 5)
    line = refused(run, tmp_path / "r", "calibrate", emoji / "checkpoint", "--data", few)
    assert "16" in line


def test_unreadable_pictures(run: Run, emoji: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "some", 40)
    (folder / "03.png").write_bytes(b"no picture")
    done = run("calibrate", emoji / "checkpoint", "--data", folder, "--graphs", "vision", "-o", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert "03.png" in (tmp_path / "r" / "ranges.json").read_text()
    for index in (4, 5, 6):
        (folder / f"{index:02}.png").write_bytes(b"no picture")
    line = refused(run, tmp_path / "s", "calibrate", emoji / "checkpoint", "--data", folder)
    assert "4 of 40" in line
    assert "03.png" in line


def test_constant_pictures(run: Run, emoji: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "flat", 20, flat=True)
    line = refused(run, tmp_path / "r", "calibrate", emoji / "checkpoint", "--data", folder)
    assert "constant" in line or "one colour" in line, line


def test_nan_names_the_layer(run: Run, emoji: Path, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(emoji / "checkpoint", copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["vision_model.encoder.layers.2.mlp.fc1.bias"][3] = float("nan")
    save_file(tensors, copy / "model.safetensors")
    line = refused(run, tmp_path / "r", "calibrate", copy, "--data", data, "--sample-count", 16)
    assert "vision_model.encoder.layers.2.mlp.fc2" in line


def test_ranges_of_something_else(run: Run, golden_a: Path, emoji: Path, ranges: Path, tmp_path: Path) -> None:
    quantize = ("--precision", "int8", "--ranges", ranges)
    line = refused(run, tmp_path / "b", "export", golden_a / "checkpoint", *quantize)
    assert "calibrate" in line
    line = refused(run, tmp_path / "b", "export", emoji / "checkpoint", "--image-size", 84, *quantize)
    assert "70" in line
    assert "84" in line


def test_unknown_pattern(run: Run, emoji: Path, ranges: Path, tmp_path: Path) -> None:
    pattern = "vision_model.encoder.layers.0.mlp.fc3"
    options = ("--precision", "int8", "--ranges", ranges, "--nodes_to_exclude", pattern)
    assert "layers.0.mlp.fc1" in refused(run, tmp_path / "b", "export", emoji / "checkpoint", *options)


def test_fp8_without_hardware(run: Run, emoji: Path, ranges: Path, tmp_path: Path) -> None:
    options = ("--quantize_mode", "fp8", "--ranges", ranges, "--target", "a100")
    line = refused(run, tmp_path / "b", "export", emoji / "checkpoint", *options)
    assert "rtx-4090" in line


def test_a_killed_calibration_ends_with_the_same_scales(
    run: Run, emoji: Path, data: Path, ranges: Path, tmp_path: Path
) -> None:
    output = tmp_path / "ranges"
    options = ["--data", str(data), "--sample-count", "16", "-o", str(output)]
    command = [sys.executable, "-m", "internvl_edge.cli", "calibrate", str(emoji / "checkpoint"), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline and not list(tmp_path.glob(".ranges*/*.safetensors")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    assert run(*command[3:]).returncode == 0
    files = sorted(path.name for path in ranges.iterdir())
    assert sorted(path.name for path in output.iterdir()) == files
    assert all((output / name).read_bytes() == (ranges / name).read_bytes() for name in files)
