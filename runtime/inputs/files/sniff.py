"""Recognise the format of a file by its first bytes."""

import re
import stat
from pathlib import Path

from internvl_edge.runtime.errors import UnreadableError

HEAD_BYTES = 512
"""Number of bytes that are read to recognise a file; a tar archive needs this many."""

_SVG = r"<svg|<\?xml.*<svg|<!doctype svg"
_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_WORDS = "a Git LFS pointer in place of the file: run git lfs pull"
_PICTURES: tuple[tuple[bytes, str], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"BM.{12}[\x0c-\x7c]\0\0\0", "BMP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG2000"),
    (rb"P[1-6Ff][ \t\r\n#]", "PPM"),
)
_UNREAD: tuple[tuple[bytes, str], ...] = (
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (rb"%PDF", "a PDF document"),
    (rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", "a HEIC picture"),
    (rb"8BPS", "a Photoshop document"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (rb"\0\0\x01\0", "an icon"),
    (rb"qoif", "a QOI picture"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "a Windows metafile"),
)
"""First bytes and names of formats that users may take for pictures but that are not decoded."""
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"....ftyp", "an MP4 or QuickTime video"),
    (rb"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (rb"RIFF....AVI ", "an AVI video"),
    (rb"\x1f\x8b", "gzip data"),
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive"),
    (rb".{257}ustar", "a tar archive"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!", "a RAR archive"),
    (rb"\xfd7zXZ", "xz data"),
    (rb"BZh", "bzip2 data"),
    (rb"\x28\xb5\x2f\xfd", "zstd data"),
    (rb"PAR1", "a Parquet table"),
    (rb"ARROW1", "an Arrow table"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (rb"SQLite format 3", "an SQLite database"),
)
_TEXTS: tuple[tuple[str, str], ...] = (
    (r"<!doctype html|<html|<head|<body", "an HTML page"),
    (_SVG, "an SVG drawing"),
    (r"<", "an XML document"),
    (r"[\[{]", "JSON text"),
)


def picture_format(head: bytes) -> str | None:
    """Return Pillow's name of the picture format that a file begins as; None if it is none that is decoded."""
    return _first(_PICTURES, head)


def described(head: bytes) -> str | None:
    """Return a few words for a file that no decoder takes, by its first bytes; None for unknown formats."""
    if not head:
        return "an empty file"
    if head.startswith(_LFS):
        return _LFS_WORDS
    if (known := _first((*_UNREAD, *_OTHERS), head)) is not None:
        return known
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16 text"
    text = (_text(head) or "").lstrip().lower()
    return next((name for begin, name in _TEXTS if re.match(begin, text, re.DOTALL)), None)


def why_no_picture(head: bytes) -> str:
    """Return in a few words why a file is not decoded; `head`, its first bytes, is of no format that is."""
    found = described(head)
    if found is None:
        return "not a picture"
    text = (_text(head) or "").lstrip().lower()
    if _first(_UNREAD, head) is not None or re.match(_SVG, text, re.DOTALL):
        return f"{found}, which is not read: convert it to PNG or JPEG"
    return f"not a picture: {found}"


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def regular_file(path: Path) -> Path:
    """Return `path` if it is a regular file: opening a pipe may wait for ever, and a device may have no end.

    Raises:
        UnreadableError: there is something other than a file.
        OSError: nothing exists there.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UnreadableError("a folder")
    if not stat.S_ISREG(mode):
        raise UnreadableError("neither a file nor a folder")
    return path


def no_text(head: bytes) -> str | None:
    """Return a few words for a file that cannot be a table of text, by its first bytes; None if it may be one."""
    if (found := picture_format(head)) is not None and found != "PPM":  # a text may begin with P1 as a PPM does
        return f"a {found} picture"
    found = described(head)
    return found if found not in ("JSON text", "an empty file", "an XML document") else None


def _first(known: tuple[tuple[bytes, str], ...], head: bytes) -> str | None:
    return next((name for magic, name in known if re.match(magic, head, re.DOTALL)), None)


def _text(head: bytes) -> str | None:
    """Return the bytes as text; None if they are no UTF-8."""
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return None
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return head[: error.start].decode("utf-8-sig") if error.start > len(head) - 4 else None  # a cut character
