"""Pixel values equal the reference bit by bit; what cannot be read is reported at once."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.decode import check_pictures, load_pictures
from internvl_edge.runtime.inputs.pictures.preprocess import (
    MEAN,
    STD,
    Geometry,
    Preprocessing,
    pixel_batches,
    preprocess,
)
from internvl_edge.runtime.monitor import UNMONITORED

GEOMETRIES: dict[Geometry, str] = {"squash": "retrieval", "crop": "classification", "clip": "clip_processor"}


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_golden_pictures_are_bit_equal(golden_a: Path, geometry: Geometry, case: int) -> None:
    golden = load_file(golden_a / "golden.safetensors")
    picture = golden[f"preproc.{case}.image_u8"]
    expected = golden[f"preproc.{case}.{GEOMETRIES[geometry]}"]
    values = preprocess([picture], at(56), geometry)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[0], expected)


def at(size: int) -> Preprocessing:
    return Preprocessing(image_size=size)


def columns(width: int, height: int) -> np.ndarray:
    """A picture whose every pixel holds the number of its column."""
    return np.repeat(np.broadcast_to(np.arange(width, dtype=np.uint8), (height, width))[..., None], 3, axis=2)


def first_column(values: np.ndarray) -> int:
    """Undo the normalisation of the upper left red value."""
    return round(float((values[0, 0, 0, 0] * STD[0] + MEAN[0]) * 255))


@pytest.mark.parametrize(("width", "crop", "clip"), [(4, 0, 0), (5, 0, 0), (6, 1, 1), (7, 2, 1), (9, 2, 2), (11, 4, 3)])
def test_the_two_centre_crops_differ_where_half_a_pixel_is_odd(width: int, crop: int, clip: int) -> None:
    picture = columns(width, 4)  # the short side is already right: cropping alone
    assert first_column(preprocess([picture], at(4), "crop")) == crop
    assert first_column(preprocess([picture], at(4), "clip")) == clip


def test_both_ways_to_scale_give_the_same_bits() -> None:
    values = np.arange(256, dtype=np.uint8)
    processor = (values * (1 / 255)).astype(np.float32)
    np.testing.assert_array_equal(values.astype(np.float32) / np.float32(255), processor)


def test_every_kind_of_picture_gives_the_same_values(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(array).save(path)
    kinds = [array, Image.fromarray(array), path, str(path)]
    values = preprocess(kinds, at(8))
    assert values.shape == (4, 3, 8, 8)
    assert (values == values[0]).all()
    np.testing.assert_array_equal(preprocess(array[None], at(8))[0], values[0])


def test_exif_orientation_is_not_applied(tmp_path: Path, rng: np.random.Generator) -> None:
    picture = Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    turned, plain = preprocess([tmp_path / "turned.jpg", tmp_path / "plain.jpg"], at(8))
    np.testing.assert_array_equal(turned, plain)


def test_alpha_is_dropped_without_blending() -> None:
    picture = np.full((4, 4, 4), 200, np.uint8)
    picture[..., 3] = 0
    np.testing.assert_array_equal(preprocess([picture], at(4)), preprocess([picture[..., :3]], at(4)))


def test_no_picture_is_an_empty_batch() -> None:
    assert preprocess([], at(8)).shape == (0, 3, 8, 8)


def test_the_shape_of_pixel_values_is_for_the_graph_to_check() -> None:
    values = np.ones((3, 4, 4), np.float32)
    batches = list(pixel_batches(values, at(4), "squash", 2, UNMONITORED))
    assert [batch.shape for batch in batches] == [(2, 4, 4), (1, 4, 4)]


def test_an_unknown_geometry_names_the_known() -> None:
    with pytest.raises(InputError, match=r"'stretch'.*squash, crop, clip"):
        preprocess([], at(8), "stretch")  # type: ignore[arg-type]


def png(size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).save(buffer, "png")
    return buffer.getvalue()


def test_all_unreadable_pictures_are_named(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "cut.png").write_bytes(png()[:300])
    (tmp_path / "text.jpg").write_text("not a picture at all")
    names = [tmp_path / name for name in ("good.png", "cut.png", "text.jpg", "absent.png")]
    with pytest.raises(InputError) as caught:
        load_pictures([*names, tmp_path, 7, rng.random((4, 4, 3))])
    message = str(caught.value)
    assert "\n" not in message
    assert "good.png" not in message
    assert "cut.png (" in message
    assert "text.jpg (not a picture)" in message
    assert "absent.png (no such file)" in message
    assert f"{tmp_path} (" in message
    assert "int (int is no picture)" in message
    assert "float64 [4, 4, 3] instead of uint8" in message
    assert message.endswith("give PNG, JPEG or another format of docs/inputs.md")


def test_a_decompression_bomb_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.png").write_bytes(png())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"bomb.png \(more than 100 pixels, the limit; scale it down"):
        load_pictures([tmp_path / "bomb.png"])


def test_headers_show_a_broken_file_before_anything_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "text.jpg").write_text("no")
    check_pictures([tmp_path / "good.png", np.zeros((2, 2), np.uint8)])
    with pytest.raises(InputError, match=r"text.jpg \(not a picture\), .*absent.png \(no such file\)"):
        check_pictures([tmp_path / "good.png", tmp_path / "text.jpg", tmp_path / "absent.png"])


@pytest.mark.parametrize("one", ["picture.png", Path("picture.png"), np.zeros((4, 4, 3), np.uint8), 3])
def test_one_picture_instead_of_a_list_is_refused(one: object) -> None:
    with pytest.raises(InputError, match="give a list"):
        preprocess(one, at(8))  # type: ignore[arg-type]


NOISE = png((12, 12))


@settings(max_examples=60)
@given(position=st.integers(0, len(NOISE) - 1), value=st.integers(0, 255), cut=st.integers(0, len(NOISE)))
def test_damaged_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: int
) -> None:
    damaged = bytearray(NOISE)
    damaged[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(damaged[:cut])
    try:
        values = preprocess([path], at(4))
    except InputError:
        return  # reported, as it should be; every other exception fails the test
    assert values.shape == (1, 3, 4, 4)


def test_every_picture_too_narrow_to_scale_is_named(tmp_path: Path) -> None:
    for name, size in (("a", (70, 70)), ("strip", (200_000, 1)), ("pole", (1, 200_000))):
        Image.new("L", size).save(tmp_path / f"{name}.png")
    with pytest.raises(
        InputError, match=r"cannot be scaled: \S+strip.png \(200000 x 1 .*; crop it\), \S+pole.png"
    ) as e:
        preprocess([tmp_path / f"{name}.png" for name in ("a", "strip", "pole")], at(56), "crop")
    assert "a.png" not in str(e.value)
    with pytest.raises(InputError, match=r"picture 1, bytes \(1 x 200000 pixels"):
        preprocess([png(), (tmp_path / "pole.png").read_bytes()], at(56), "clip")
