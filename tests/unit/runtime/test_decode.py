"""Every kind of picture becomes RGB as the reference makes it; what is too large or broken is told with its remedy."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime.decode import check_pictures, decode, limit_pixels, load_pictures
from internvl_edge.runtime.errors import InputError


@pytest.fixture
def limit() -> Iterator[None]:
    """A limit of 1000 pixels."""
    before = Image.MAX_IMAGE_PIXELS
    limit_pixels(1000)
    yield
    limit_pixels(before)


def encoded(picture: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)  # type: ignore[arg-type]
    return buffer.getvalue()


def pixels(image: object) -> np.ndarray:
    picture = decode(image)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.fixture
def rgb(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (6, 4), (value, value, value)) for value in (0, 128, 255)]
    settings = {"lossless": True} if kind == "webp" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 3
    np.testing.assert_array_equal(pixels(content), np.asarray(frames[0]))


def test_cmyk_is_inverted_plainly() -> None:
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    np.testing.assert_array_equal(pixels(encoded(cmyk, "tiff"))[0, 0], [255, 0, 0])
    assert pixels(encoded(cmyk, "jpeg")).shape == (4, 4, 3)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_wide_modes_are_cut_at_255_and_told(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    values = np.array([[0, 255], [256, 40_000]])
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    picture = Image.fromarray(values.astype(dtype))
    assert picture.mode == mode
    np.testing.assert_array_equal(pixels(encoded(picture, "tiff"))[..., 0], [[0, 255], [255, 255]])
    assert f"mode {mode}); values above 255 become white" in caplog.text
    assert "convert it to 8 bits first" in caplog.text


def test_sixteen_bit_png_is_cut_too(caplog: pytest.LogCaptureFixture) -> None:
    picture = Image.fromarray(np.array([[7, 300]], np.uint16))
    np.testing.assert_array_equal(pixels(encoded(picture, "png"))[0, :, 0], [7, 255])
    assert "more than 8 bits" in caplog.text


def test_palettes_become_their_colours(rgb: Image.Image) -> None:
    palette = rgb.quantize(8)
    np.testing.assert_array_equal(pixels(encoded(palette, "png")), np.asarray(palette.convert("RGB")))
    transparent = encoded(palette, "png", transparency=0)
    np.testing.assert_array_equal(pixels(transparent), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P"])
def test_grey_and_alpha(mode: str) -> None:
    white = {"1": 1, "L": 255, "LA": (255, 0), "RGBA": (255, 255, 255, 0), "P": 255}[mode]
    picture = Image.new(mode, (3, 3), white)
    assert (pixels(encoded(picture, "png")) == 255).all() or mode == "P"


def test_orientation_is_not_applied(rgb: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(pixels(encoded(rgb, "png", exif=exif)), np.asarray(rgb))


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("size", [(40, 26), (50, 40), (1001, 1), (100, 100)])  # above once, and above twice the limit
def test_more_pixels_than_the_limit_names_the_remedy(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(tmp_path / "large.png")
    Image.new("L", (40, 25)).save(tmp_path / "small.png")
    for read in (load_pictures, check_pictures):
        with pytest.raises(
            InputError, match=r"large.png \(more than 1000 pixels, the limit; scale it down, or raise --max-pixels"
        ) as caught:
            read([tmp_path / "small.png", tmp_path / "large.png"])
        assert "small.png" not in str(caught.value)
    limit_pixels(None)
    assert load_pictures([tmp_path / "large.png"])[0].size == size


def test_a_bomb_is_refused_by_its_header() -> None:
    """A few hundred bytes that say 60,000 x 60,000: nothing of it is unpacked."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000)))
    assert len(bomb) < 500
    with pytest.raises(InputError, match="more than 89478485 pixels, the limit; scale it down"):
        load_pictures([bomb])


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.6])
def test_what_is_cut_off_is_unreadable(rng: np.random.Generator, kind: str, part: float) -> None:
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise, kind)
    with pytest.raises(InputError, match=r"^unreadable pictures: bytes \(.+\); give PNG, JPEG"):
        load_pictures([content[: int(len(content) * part)]])


def test_of_many_unreadable_pictures_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"19.png \(no such file\) and 10 more; give") as caught:
        load_pictures([tmp_path / f"{index}.png" for index in range(30)])
    assert "20.png" not in str(caught.value)
