"""What the first bytes of a file say: formats that are read, formats that are not, and no pictures at all."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime.errors import UnreadableError
from internvl_edge.runtime.inputs.files.sniff import (
    HEAD_BYTES,
    described,
    head_of,
    no_text,
    picture_format,
    regular_file,
    why_no_picture,
)


@pytest.mark.parametrize("written", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF"])
def test_a_file_that_pillow_wrote_is_of_its_format(written: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, written)
    assert picture_format(file.getvalue()[:HEAD_BYTES]) == written


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer in place of the file: run git lfs pull"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x18ftypheic", "a HEIC picture"),
        (b"\0\0\0\x18ftypisom", "an MP4 or QuickTime video"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\0" * 257 + b"ustar", "a tar archive"),
        (b"PAR1\x15\x04", "a Parquet table"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b"\xff\xfea\0", "UTF-16 text"),
        (b"\xef\xbb\xbf  <!DOCTYPE html>", "an HTML page"),
        (b"<?xml version='1.0'?>\n<svg/>", "an SVG drawing"),
        (b"<?xml version='1.0'?>", "an XML document"),
        (b' [{"a": 1}]', "JSON text"),
        (b"file,caption\n", None),
        (b"\0\1\2", None),
        (b"\x89PNG\r\n\x1a\n", None),
    ],
)
def test_what_no_decoder_takes_is_named(head: bytes, what: str | None) -> None:
    assert described(head) == what


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"\0\1", "not a picture"),
        (b"PK\x03\x04", "not a picture: a zip archive"),
        (b"8BPS\0\1", "a Photoshop document, which is not read: convert it to PNG or JPEG"),
        (b"<svg>", "an SVG drawing, which is not read: convert it to PNG or JPEG"),
    ],
)
def test_why_a_file_is_not_decoded(head: bytes, why: str) -> None:
    assert why_no_picture(head) == why


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"P1\n1 1\n", None),
        (b"{", None),
        (b"", None),
        (b"<a>", None),
        (b"<html>", "an HTML page"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b"file,caption\n", None),
    ],
)
def test_what_is_certainly_no_table_of_text(head: bytes, what: str | None) -> None:
    assert no_text(head) == what


@pytest.mark.parametrize(
    ("head", "what"),
    [("{ü".encode()[:-1], "JSON text"), (b"{\xfc" + b" " * 8, None), (b"{\x01", None)],
    ids=["cut inside a character", "no UTF-8", "control characters"],
)
def test_text_is_utf8_that_may_be_cut_inside_a_character(head: bytes, what: str | None) -> None:
    assert described(head) == what


def test_no_more_than_the_head_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 4)
    assert head_of(path) == bytes(range(256)) * 2


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    file, pipe = tmp_path / "a", tmp_path / "pipe"
    file.touch()
    os.mkfifo(pipe)
    assert regular_file(file) == file
    with pytest.raises(UnreadableError, match=r"^a folder$"):
        regular_file(tmp_path)
    with pytest.raises(UnreadableError, match=r"^neither a file nor a folder$"):
        regular_file(pipe)
    with pytest.raises(FileNotFoundError):
        regular_file(tmp_path / "gone")
