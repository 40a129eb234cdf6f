"""`run video`, `run connect`, and options of every command of `run`: limits, threads, stages."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.tasks.connect import connect
from tests.e2e.conftest import Run
from tests.exports import Exports
from tests.tolerances import HANG_S


def gif(path: Path, source: Path) -> Path:
    frames = [Image.open(picture).convert("RGB") for picture in sorted(source.iterdir())]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def test_videos_are_ranked(run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    videos = [pictures, gif(tmp_path / "v.gif", pictures)]
    done = run("run", "video", demo_bundle, *videos, "-t", "melon", "-t", "a flag", "--frames", 4)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [lines[0], lines[3]] == list(map(str, videos))
    assert all(re.fullmatch(r" +-?\d+\.\d{3}  (melon|a flag)", line) for line in lines[1:3] + lines[4:])


def test_one_frame_is_the_picture_cropped(run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    with InternVL.open(demo_bundle) as model:
        frames = sorted(pictures.iterdir())
        pixels = model.preprocess(frames, "clip")
        np.testing.assert_allclose(model.encode_video(frames), model.encode_image(pixels).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "found"),
    [("gone.mp4", "no such file"), ("notes.mp4", "neither picture nor video"), (".", "0 frames do not give 8")],
)
def test_what_is_no_video_is_one_line(run: Run, demo_bundle: Path, tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    done = run("run", "video", demo_bundle, tmp_path / name, "-t", "melon")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert found in done.stderr


@pytest.mark.parametrize("graphs", [("vision",), ("vision", "connector")])
def test_connect_writes_what_a_language_model_takes(
    run: Run, exports: Exports, golden_b: Path, pictures: Path, tmp_path: Path, graphs: tuple[str, ...]
) -> None:
    chat_bundle = exports.bundle(golden_b / "checkpoint_chat", dtype="fp32", graphs=graphs)
    Image.new("RGB", (90, 30), (200, 30, 40)).save(tmp_path / "wide.png")
    images, output = [tmp_path / "wide.png", pictures / "0000.png"], tmp_path / "f.npz"
    done = run("run", "connect", chat_bundle, *images, "-o", output, "--max-tiles", 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{output}: 2 pictures, 5 tiles, vit_embeds [5, ")
    with np.load(output) as arrays, InternVL.open(chat_bundle) as model:
        assert arrays["images"].tolist() == list(map(str, images))
        assert arrays["tiles"].tolist() == [4, 1]  # three and the thumbnail; a square is one tile
        np.testing.assert_allclose(arrays["vit_embeds"][4:], connect(model, images[1]), atol=1e-5)
    failed = run("run", "connect", chat_bundle, tmp_path / "gone.png", "-o", output)
    assert "gone.png (no such file)" in failed.stderr


def test_a_bundle_without_connector_says_so(run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    done = run("run", "connect", demo_bundle, pictures / "0000.png", "-o", tmp_path / "f.npz")
    assert done.returncode == 1
    assert "has no graph connector" in done.stderr


def test_profile_shows_where_the_time_went(run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    plain = run("run", "retrieve", demo_bundle, pictures / "0000.png", "-t", "melon", "--threads", 1)
    done = run("run", "retrieve", demo_bundle, pictures / "0000.png", "-t", "melon", "--threads", 1, "--latency")
    assert done.stdout == plain.stdout
    table = done.stderr.splitlines()
    assert table[0].split() == ["stage", "graph", "calls", "ms", "share"]
    for line in (
        "decode image",
        "preprocess",
        "tokenize",
        "compute +vision",
        "compute +query",
        "compute +text",
        "request",
    ):
        assert any(re.match(line, row) for row in table), line
    done = run("run", "embed", demo_bundle, pictures, "-o", tmp_path / "f.npy", "--latency")
    assert any(re.match("decode image +8 ", row) for row in done.stderr.splitlines()), done.stderr


@pytest.mark.parametrize("command", ["retrieve", "embed"])
def test_the_limit_of_pixels_can_be_moved(run: Run, demo_bundle: Path, tmp_path: Path, command: str) -> None:
    Image.new("L", (300, 300)).save(tmp_path / "large.png")
    extra = ["-t", "melon"] if command == "retrieve" else ["-o", tmp_path / "f.npy"]
    done = run("run", command, demo_bundle, tmp_path / "large.png", *extra, "--max-pixels", 80_000)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "large.png (more than 80000 pixels, the limit; scale it down, or raise --max-pixels" in done.stderr
    assert run("run", command, demo_bundle, tmp_path / "large.png", *extra, "--max-pixels", 0).returncode == 0


def test_two_processes_on_one_bundle(demo_bundle: Path, pictures: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "internvl_edge.cli",
        "run",
        "retrieve",
        demo_bundle,
        pictures / "0000.png",
        "-t",
        "a",
    ]
    both = [subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate(timeout=HANG_S)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(outputs) == 1
