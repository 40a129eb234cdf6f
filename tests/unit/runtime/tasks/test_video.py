"""Frames by the reference's rule, of folders, animations and containers; what cannot be sampled is reported."""

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_edge.runtime.errors import BackendError, BundleError, InputError
from internvl_edge.runtime.tasks.video import encode_video, frame_indices, rank_texts, sample_video, segment_indices
from tests.project import ROOT
from tests.tolerances import HANG_S
from tests.unit.runtime.embed_fakes import fake_model, greys, write_pictures
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle


def animation(path: Path, values: Iterable[int]) -> Path:
    frames = [Image.new("RGB", (8, 6), (value,) * 3) for value in values]
    settings = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, **settings)
    return path


def video(path: Path, values: Iterable[int], size: int = 64) -> Path:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for value in values:
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def colours(frames: Iterable[Image.Image]) -> list[int]:
    return [int(np.asarray(frame)[0, 0, 0]) for frame in frames]


@pytest.mark.parametrize(
    ("count", "frames", "taken"),
    [
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (8, 8, list(range(8))),
        (100, 4, [12, 37, 62, 87]),
        (5, 1, [2]),
        (1, 1, [0]),
    ],
)
def test_the_rule_by_hand(count: int, frames: int, taken: list[int]) -> None:
    assert list(frame_indices(count, frames)) == taken


@given(count=st.integers(0, 500), frames=st.integers(1, 40))
def test_the_rule_gives_what_is_wanted_or_says_what_it_can_give(count: int, frames: int) -> None:
    refusal = ""
    try:
        indices = frame_indices(count, frames)
    except InputError as error:
        refusal = str(error)
    if "; take " in refusal:
        frames = int(refusal.split("; take ")[1])
        indices = frame_indices(count, frames)
    elif refusal:
        assert (count, refusal.split("; ")[1]) == (0, "give one with more frames")
        return
    assert len(indices) == frames
    assert 0 <= indices[0] <= indices[-1] < count


def test_a_folder_of_frames_in_order_of_names(tmp_path: Path) -> None:
    write_pictures(tmp_path / "v", 16)
    (tmp_path / "v" / "notes.txt").write_text("no frame")
    assert colours(sample_video(tmp_path / "v")) == [1, 3, 5, 7, 9, 11, 13, 15]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    path = animation(tmp_path / f"v.{suffix}", range(0, 240, 15))
    assert colours(sample_video(path, 4)) == [30, 90, 150, 210]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_containers(tmp_path: Path, suffix: str) -> None:
    path = video(tmp_path / f"v.{suffix}", range(0, 240, 10))
    frames = sample_video(path, 6)
    np.testing.assert_allclose(colours(frames), [20, 60, 100, 140, 180, 220], atol=4)  # a lossy codec


def test_frames_are_cropped_and_averaged(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, ran = fake_model(bundle_folder, monkeypatch)
    frames = np.zeros((2, 4, 8, 3), np.uint8)
    frames[0, :, 2:6], frames[1, :, 2:6] = 100, 200  # the middle; at the sides black
    assert greys(encode_video(model, frames)[None]) == [150]
    assert ran == [("vision", 2)]
    with pytest.raises(InputError, match="no input given"):
        encode_video(model, [])
    with pytest.raises(InputError, match="give a list"):
        encode_video(model, "frame.png")


def test_pixel_values_are_taken_as_they_are(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    model, _ = fake_model(bundle_folder, monkeypatch)
    for dtype in (np.float16, np.float32):
        values = rng.normal(size=(5, 3, 4, 4)).astype(dtype)
        np.testing.assert_array_equal(encode_video(model, values), model.encode_image(values).mean(axis=0))


def test_texts_are_ranked_for_each_video(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, _ = fake_model(bundle_folder, monkeypatch)
    write_pictures(tmp_path / "a", 8)
    logits = rank_texts(model, [tmp_path / "a", animation(tmp_path / "b.gif", range(8))], ["x", "y", "z"], 4, "c")
    assert logits.shape == (2, 3)


def test_a_tower_without_texts_says_so_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = dataclasses.replace(MODEL, logit_scale=None)
    model, _ = fake_model(write_bundle(tmp_path / "tower", ("vision",), info, None), monkeypatch)
    with pytest.raises(BundleError, match="no logit scale"):
        rank_texts(model, [tmp_path / "gone.gif"], ["x"])


def test_what_is_no_video_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.mp4: no such file; give a video, an animation or a folder"):
        sample_video(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    pytest.importorskip("av", reason="PyAV is not installed")
    with pytest.raises(InputError, match=r"text.mp4: neither picture nor video \(.+\); give another file"):
        sample_video(tmp_path / "text.mp4")


def test_pipes_and_long_names_are_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    found = []

    def read() -> None:
        with pytest.raises(InputError, match=r"pipe.mp4: neither a file nor a folder; give a video"):
            sample_video(tmp_path / "pipe.mp4")
        found.append("pipe")

    thread = threading.Thread(target=read, daemon=True)  # to open a pipe waits for who writes to it
    thread.start()
    thread.join(HANG_S)
    assert found == ["pipe"]
    with pytest.raises(InputError, match="no such file"):
        sample_video(tmp_path / ("v" * 300))


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    video(tmp_path / "v.mp4", range(0, 240, 10)).rename(tmp_path / "12:30.mp4")
    assert len(sample_video(Path("12:30.mp4"), 6)) == 6


class TestSegments:
    """The rule of chat models' cards."""

    def test_the_reference_takes_the_same_frames(self) -> None:
        cases = json.loads((ROOT / "tests" / "golden" / "chat" / "video.json").read_text())["model_card"]
        assert cases
        for case in cases:
            first, last = 0, case["frames"] - 1
            if case["bound"] is not None:  # seconds: a part of the clip, whose frames are counted from its first
                first, last = (round(seconds * case["fps"]) for seconds in case["bound"])
            taken = segment_indices(last - first + 1, case["segments"])
            assert [first + index for index in taken] == case["indices"], case

    def test_a_short_clip_gives_frames_more_than_once(self, tmp_path: Path) -> None:
        write_pictures(tmp_path / "v", 1)
        assert len(sample_video(tmp_path / "v", 4, segment_indices)) == 4
        path = video(tmp_path / "v.mp4", [40, 200])
        first, second, third, fourth = colours(sample_video(path, 4, segment_indices))
        assert (first, third) == (second, fourth) or first == second == third
        assert first < fourth

    def test_a_video_without_frames_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"/empty: video: no frames; give one that has some"):
            sample_video(tmp_path / "empty", 8, segment_indices)
        with pytest.raises(InputError, match="0 frames wanted"):
            segment_indices(3, 0)


def test_too_few_frames_name_the_video_and_what_it_can_give(tmp_path: Path) -> None:
    write_pictures(tmp_path / "v", 9)
    with pytest.raises(InputError, match=r"/v: video: 9 frames do not give 8 .*one of every 2 gives 4\); take 3"):
        sample_video(tmp_path / "v")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"/empty: video: 0 frames .*give one with more frames"):
        sample_video(tmp_path / "empty")
    Image.new("RGB", (4, 4)).save(tmp_path / "still.png")
    with pytest.raises(InputError, match=r"still.png: video: 1 frames do not give 8 .*take 1"):
        sample_video(tmp_path / "still.png")


def test_a_broken_frame_is_reported(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "v", 8)
    paths[3].write_text("no")
    with pytest.raises(InputError, match=r"/v: a frame cannot be read \(not a picture\); repair it"):
        sample_video(tmp_path / "v")
    path = animation(tmp_path / "v.gif", range(0, 240, 15))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"v.gif: "):
        sample_video(path)


def test_large_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = animation(tmp_path / "v.gif", range(8))
    container = video(tmp_path / "v.mp4", range(8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    for source in (path, container):
        with pytest.raises(InputError, match=r"pixels.* the limit"):
            sample_video(source)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "v.mp4").write_bytes(b"\0" * 64)
    with pytest.raises(BackendError, match=r"pip install 'internvl-edge\[video\]', or give a folder of frames"):
        sample_video(tmp_path / "v.mp4")


def test_more_frames_than_anything_has_are_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"9 frames do not give 1000000000 by the reference's rule .* take 9"):
        frame_indices(9, 1_000_000_000)
