"""What a checkpoint's file says of pictures reaches every pixel; what the file of a bundle says is checked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import SCHEMA, FileInfo, Manifest, ModelInfo, VisionInfo
from internvl_edge.runtime.bundle.preprocessor_file import FILE, load_preprocessing, save_preprocessing
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.inputs.pictures.preprocess import FILTERS, Filter, Preprocessing, preprocess

HALF = Preprocessing(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
MODEL = ModelInfo(layout="internvl", vision=VisionInfo(image_size=8, patch_size=4, hidden_size=8, tokens=5))


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (9, 21, 3), dtype=np.uint8)


def test_mean_and_std(picture: np.ndarray) -> None:
    square = picture[:8, :8]
    values = preprocess([square], HALF)
    np.testing.assert_allclose(values[0], square.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_a_channel_each() -> None:
    settings = Preprocessing(image_size=1, mean=(0.0, 0.5, 1.0), std=(1.0, 2.0, 0.5))
    values = preprocess([np.full((1, 1, 3), 255, np.uint8)], settings)
    assert values.ravel().tolist() == [1.0, 0.25, 0.0]


def test_not_rescaled_and_not_normalised(picture: np.ndarray) -> None:
    plain = Preprocessing(image_size=8, rescale_factor=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)  # type: ignore[arg-type]
    np.testing.assert_array_equal(preprocess([picture[:8, :8]], plain)[0], picture[:8, :8].transpose(2, 0, 1))


def test_another_factor_is_multiplied_as_in_the_processor() -> None:
    """transformers multiplies in fp64 and rounds to fp32."""
    factor, square = 1 / 127.5, np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    settings = Preprocessing(image_size=8, rescale_factor=factor, mean=(1.0,) * 3, std=(1.0,) * 3)  # type: ignore[arg-type]
    expected = (square.astype(np.float64) * factor).astype(np.float32) - np.float32(1)
    np.testing.assert_array_equal(preprocess([square], settings)[0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_pillows(picture: np.ndarray, name: Filter) -> None:
    given = Image.fromarray(picture).resize((8, 8), Image.Resampling[name.upper()])
    values = preprocess([picture], Preprocessing(image_size=8, resample=name))
    np.testing.assert_array_equal(values, preprocess([given], Preprocessing(image_size=8)))


def test_filters_differ_and_count_as_pillow_does() -> None:
    assert [Image.Resampling(number).name.lower() for number in range(len(FILTERS))] == list(FILTERS)


@pytest.mark.parametrize("geometry", ["crop", "clip"])
def test_a_larger_short_side_before_the_crop(picture: np.ndarray, geometry: Any) -> None:
    settings = Preprocessing(image_size=8, short_side=10)
    resized = Image.fromarray(picture).resize((int(10 * 21 / 9), 10), Image.Resampling.BICUBIC)
    left = (resized.width - 8) // 2 if geometry == "clip" else round((resized.width - 8) / 2)
    cut = resized.crop((left, 1, left + 8, 9))
    expected = preprocess([cut], Preprocessing(image_size=8), "squash")
    np.testing.assert_array_equal(preprocess([picture], settings, geometry), expected)


def test_the_files_geometry_takes_the_place_of_the_tasks(picture: np.ndarray) -> None:
    clip = Preprocessing(image_size=8, geometry="clip")
    assert [clip.geometry_of(task) for task in ("squash", "crop", "clip")] == ["clip"] * 3
    assert [HALF.geometry_of(task) for task in ("squash", "crop", "clip")] == ["squash", "crop", "clip"]
    np.testing.assert_array_equal(preprocess([picture], clip), preprocess([picture], clip, "clip"))
    assert not np.array_equal(preprocess([picture], clip), preprocess([picture], clip, "squash"))


def test_another_size_keeps_the_share_that_is_cut() -> None:
    assert Preprocessing(image_size=224, short_side=256).at_size(448).short_side == 512
    assert HALF.at_size(16) == Preprocessing(image_size=16, mean=HALF.mean, std=HALF.std)


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        ({"image_size": 0}, "image_size 0 is below 1"),
        ({"mean": (0.5, 0.5)}, r"mean \[0.5, 0.5\] is not three numbers"),
        ({"std": (1.0, 0.0, 1.0)}, r"std .* divides by 0"),
        ({"std": (1.0, float("nan"), 1.0)}, "is not three numbers"),
        ({"rescale_factor": -1.0}, "rescale_factor -1.0 is not above 0"),
        ({"resample": "cubic"}, "resample 'cubic' is none of nearest"),
        ({"geometry": "stretch"}, "geometry 'stretch' is none of squash"),
        ({"short_side": 7}, "short_side 7 is below image_size 8"),
        ({"mean": (1.0,), "resample": "x"}, "three numbers; resample 'x'"),
    ],
)
def test_what_cannot_be_is_reported(wrong: dict[str, Any], finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        Preprocessing(**{"image_size": 8, **wrong})


def bundle(folder: Path, content: str | None) -> Bundle:
    files = {}
    if content is not None:
        (folder / FILE).write_text(content)
        files[FILE] = FileInfo(bytes=len(content), sha256="0")
    return Bundle(folder, Manifest(schema=SCHEMA, producer={}, model=MODEL, precision="fp32", graphs={}, files=files))


def test_a_bundle_gives_back_what_export_wrote(tmp_path: Path) -> None:
    settings = Preprocessing(image_size=8, mean=(0.48145466, 0.1, 0.2), resample="box", geometry="clip", short_side=9)
    save_preprocessing(settings, tmp_path)
    assert load_preprocessing(bundle(tmp_path, (tmp_path / FILE).read_text())) == settings


def test_a_bundle_without_the_file_is_the_references(tmp_path: Path) -> None:
    assert load_preprocessing(bundle(tmp_path, None)) == Preprocessing(image_size=8)


OFFICIAL = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "crop_size": 8}


def test_a_copy_of_the_official_file_is_the_references(tmp_path: Path) -> None:
    """Older exports copied the checkpoint's file and did not read it."""
    assert load_preprocessing(bundle(tmp_path, json.dumps(OFFICIAL))) == Preprocessing(image_size=8)
    other = {**OFFICIAL, "image_mean": [0.5] * 3, "resample": 2}
    with pytest.raises(BundleError, match=r"ignored image_mean \[0.5, 0.5, 0.5\], resample 2; export"):
        load_preprocessing(bundle(tmp_path, json.dumps(other)))


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ('{"schema": 1, "image_size": 8, "gamma": 2, "blur": 1}', r"does not know \(blur, gamma\); export"),
        ('{"schema": 2, "image_size": 8}', "another schema than 1; upgrade"),
        ('{"schema": 1, "image_size": 9}', "for pictures of 9 px, the graphs take 8"),
        ('{"schema": 1}', "does not say how pictures are prepared"),
        ('{"schema": 1, "image_size": 8, "mean": ["a", "b", "c"]}', "does not say how pictures are prepared"),
        ('{"schema": 1, "image_size": 8, "std": [0, 1, 1]}', "divides by 0"),
        ("[]", "holds no JSON object"),
        ("{", "not readable as JSON"),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, content: str, finding: str) -> None:
    with pytest.raises(BundleError, match=finding):
        load_preprocessing(bundle(tmp_path, content))
