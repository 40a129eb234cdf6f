"""Every kind of picture becomes RGB as the reference makes it; large and broken ones are reported with a remedy."""

import io
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.files.formats import PICTURE_FORMATS
from internvl_edge.runtime.inputs.pictures.decode import check_pictures, decode, limit_pixels, load_pictures
from internvl_edge.runtime.inputs.pictures.source import PictureFile, content_of
from tests.tolerances import HANG_S


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


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg2000", "ppm"])
def test_of_sixteen_bits_the_upper_eight(kind: str) -> None:
    values = np.tile(np.array([[0, 255], [256, 40_000], [32_896, 65_535]], np.uint16), (8, 8))
    content = encoded(Image.fromarray(values), kind, **({"irreversible": False} if kind == "jpeg2000" else {}))
    assert Image.open(io.BytesIO(content)).mode in ("I;16", "I")
    np.testing.assert_array_equal(pixels(content)[:3, :2, 0], [[0, 0], [1, 156], [128, 255]])


def test_grey_of_sixteen_bits_is_scaled_as_colour_of_sixteen_bits() -> None:
    """Pillow reads colours of 16 bits as their upper 8; a grey picture of the same values looks the same."""
    grey = np.array([[0, 1000, 30_000, 65_535]], np.uint16)
    colour = b"P6\n4 1\n65535\n" + np.repeat(grey[..., None], 3, axis=2).astype(">u2").tobytes()
    np.testing.assert_allclose(
        pixels(colour).astype(int), pixels(encoded(Image.fromarray(grey), "png")).astype(int), atol=1
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_orders_of_bytes(order: str) -> None:
    picture = Image.frombytes(
        "I;16B" if order == ">" else "I;16", (2, 1), np.array([256, 65_280], f"{order}u2").tobytes()
    )
    np.testing.assert_array_equal(pixels(encoded(picture, "tiff"))[0, :, 0], [1, 255])


@pytest.mark.parametrize(
    ("dtype", "values", "found"),
    [
        (np.int32, [[0, 255]], [0, 255]),
        (np.float32, [[3.0, 200.0]], [3, 200]),
        (np.float32, [[0.0, 0.0]], [0, 0]),
        (np.int32, [[0, 256]], "32-bit values from 0 to 256, whose white is not known: save it with 8 or 16 bits"),
        (np.int32, [[-1, 9]], "32-bit values from -1 to 9"),
        (np.float32, [[0.0, 1.0]], "float values from 0 to 1, whose white is not known"),
        (np.float32, [[0.0, np.nan]], "float values from"),
    ],
)
def test_32_bits_without_a_scale_are_taken_as_eight_or_refused(
    dtype: type, values: list[list[float]], found: list[int] | str
) -> None:
    content = encoded(Image.fromarray(np.array(values, dtype)), "tiff")
    if isinstance(found, list):
        assert pixels(content)[0, :, 0].tolist() == found
    else:
        with pytest.raises(UnreadableError, match=found):
            decode(content)


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


def test_alpha_of_every_palette_entry_is_dropped_without_a_warning(rgb: Image.Image) -> None:
    palette = rgb.quantize(4)
    content = encoded(palette, "png", transparency=bytes([0, 10, 255, 3]))
    np.testing.assert_array_equal(pixels(content), np.asarray(palette.convert("RGB")))


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


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
OTHER = {
    "eps": (EPS, r"PostScript \(EPS\), which is not read: convert it to PNG or JPEG"),
    "dos eps": (b"\xc5\xd0\xd3\xc6" + bytes(60) + EPS, "PostScript"),
    "pdf": (b"%PDF-1.7\n", "a PDF document, which is not read"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", "a HEIC picture, which is not read"),
    "psd": (b"8BPS\0\1" + bytes(40), "a Photoshop document, which is not read"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing, which is not read"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "not a picture: a Git LFS pointer in",
    ),
    "html": (b"\n<!DOCTYPE html><html>404 Not Found", "not a picture: an HTML page"),
    "xml": (b"<Error><Code>AccessDenied</Code></Error>", "not a picture: an XML document"),
    "json": (b'{"error": "no such picture"}', "not a picture: JSON text"),
    "zip": (b"PK\x03\x04" + bytes(40), "not a picture: a zip archive"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "not a picture: a tar archive"),
    "gzip": (b"\x1f\x8b" + bytes(40), "not a picture: gzip data"),
    "parquet": (b"PAR1" + bytes(40), "not a picture: a Parquet table"),
    "mp4": (b"\0\0\0\x20ftypisom" + bytes(40), "not a picture: an MP4 or QuickTime video"),
    "empty": (b"", "not a picture: an empty file"),
    "text": (b"hello", r"not a picture\)"),
    "junk": (bytes(range(250, 200, -1)), r"not a picture\)"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_what_is_no_picture_is_reported_as_what_it_is(tmp_path: Path, kind: str) -> None:
    content, words = OTHER[kind]
    (tmp_path / "a.png").write_bytes(content)
    for image in (content, tmp_path / "a.png"):
        for read in (load_pictures, check_pictures):
            with pytest.raises(InputError, match=rf"\({words}"):
                read([image])


def test_folders_pipes_and_names_that_cannot_be_are_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone")
    found = {"folder": tmp_path, "dangling": tmp_path / "dangling.png", "null": tmp_path / "a\0.png"}
    words = {"folder": "a folder", "dangling": "no such file", "null": "no such file"}
    for name, path in found.items():
        with pytest.raises(InputError, match=rf"\({words[name]}\)"):
            load_pictures([path])


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """To open one that nobody writes to waits for ever, and what devices give has no end."""
    os.mkfifo(tmp_path / "pipe.png")
    found = []

    def read() -> None:
        for path in (tmp_path / "pipe.png", Path("/dev/zero")):
            for reader in (lambda: decode(path), lambda: content_of(PictureFile(path))):  # noqa: B023  called at once
                with pytest.raises(UnreadableError, match="neither a file nor a folder"):
                    reader()
                found.append(path.name)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(HANG_S)
    assert found == ["pipe.png", "pipe.png", "zero", "zero"]


def test_pillow_knows_formats_that_are_never_decoded(rgb: Image.Image) -> None:
    """All that Pillow writes and that is not in the table: none of it reaches a decoder."""
    Image.init()
    refused = [kind for kind in Image.SAVE if kind not in (*PICTURE_FORMATS, "IM") and kind in Image.OPEN]
    assert {"EPS", "ICNS", "TGA", "PCX"} <= set(refused)
    for kind in refused:
        try:
            content = encoded(rgb, kind)
        except (OSError, ValueError, KeyError):  # takes other modes, or a file on disk alone
            continue
        with pytest.raises(UnreadableError):
            decode(content)


def test_a_postscript_picture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\necho started > '{tmp_path}/started'\necho 10.0\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    content = encoded(Image.new("RGB", (64, 64)), "eps")
    for name in ("a.eps", "a.png", "a.tif"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableError, match="PostScript"):
            decode(tmp_path / name)
    with pytest.raises(UnreadableError, match="PostScript"):
        decode(content)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff", "avif", "jpeg2000", "ppm"])
def test_every_format_is_read_whatever_the_file_is_called(tmp_path: Path, rgb: Image.Image, kind: str) -> None:
    content = encoded(rgb, kind)
    (tmp_path / "a.eps").write_bytes(content)
    np.testing.assert_array_equal(pixels(tmp_path / "a.eps"), pixels(content))
    assert pixels(content).shape == (6, 8, 3)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "tiff", "avif", "jpeg2000", "ppm", "bmp"])
def test_no_word_of_a_library_reaches_the_finding(rng: np.random.Generator, kind: str, tmp_path: Path) -> None:
    """A server repeats the finding to its clients: neither paths nor addresses in memory."""
    whole = encoded(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)), kind)
    broken = [whole[:cut] for cut in (3, 20, 60, len(whole) // 2)]
    broken += [whole[:at] + bytes([255 - whole[at]]) + whole[at + 1 :] for at in range(0, min(len(whole), 200), 7)]
    findings = [finding for content in broken if (finding := finding_of(content)) is not None]
    assert len(findings) > 3
    assert [finding for finding in findings if re.search(r"/|0x|<|Error|BytesIO", finding)] == []


def finding_of(content: bytes) -> str | None:
    try:
        decode(content)
    except UnreadableError as error:
        return str(error)
    return None


def test_arrays_and_pictures_without_pixels_are_reported() -> None:
    for image in (np.zeros((0, 4, 3), np.uint8), Image.new("RGB", (0, 5)), b"P6\n0 3\n255\n"):
        with pytest.raises(UnreadableError, match=r"no pixels|broken"):
            decode(image)


def test_of_many_pictures_in_memory_the_place_is_named(rgb: Image.Image) -> None:
    with pytest.raises(InputError, match=r"picture 1, bytes \(not a picture\)"):
        load_pictures([rgb, b"junk", rgb])
