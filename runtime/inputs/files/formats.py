"""The formats of pictures that are decoded, and the kinds of files by the endings of their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["picture", "lines", "json", "csv", "tsv", "parquet", "zip", "tar"]
"""Kind of a file by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFormat:
    """A format of pictures: its decoder and the endings of its file names."""

    plugin: str
    """Name of Pillow's module that decodes the format."""
    suffixes: tuple[str, ...]
    feature: str | None = None
    """Name for `PIL.features.check` of a decoder that Pillow may be built without."""


PICTURE_FORMATS: Mapping[str, PictureFormat] = {
    "PNG": PictureFormat(plugin="PngImagePlugin", suffixes=(".png", ".apng")),
    "JPEG": PictureFormat(
        plugin="JpegImagePlugin", suffixes=(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"), feature="jpg"
    ),
    "WEBP": PictureFormat(plugin="WebPImagePlugin", suffixes=(".webp",), feature="webp"),
    "GIF": PictureFormat(plugin="GifImagePlugin", suffixes=(".gif",)),
    "BMP": PictureFormat(plugin="BmpImagePlugin", suffixes=(".bmp",)),
    "DIB": PictureFormat(plugin="BmpImagePlugin", suffixes=(".dib",)),
    "TIFF": PictureFormat(plugin="TiffImagePlugin", suffixes=(".tif", ".tiff")),
    "AVIF": PictureFormat(plugin="AvifImagePlugin", suffixes=(".avif", ".avifs"), feature="avif"),
    "JPEG2000": PictureFormat(
        plugin="Jpeg2KImagePlugin", suffixes=(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), feature="jpg_2000"
    ),
    "PPM": PictureFormat(plugin="PpmImagePlugin", suffixes=(".ppm", ".pgm", ".pbm", ".pnm", ".pfm")),
}
"""All formats that any command or the server decodes, by Pillow's names.

Each is decoded inside this process. Pillow's other formats are left out on purpose: it passes EPS to Ghostscript, WMF
and EMF to Windows, and the parsers of the rest are little used and little reviewed.
"""
PICTURE_SUFFIXES = tuple(suffix for known in PICTURE_FORMATS.values() for suffix in known.suffixes)
"""Endings of the names of pictures inside a folder or an archive. A file that is listed may have any name."""
_TABLES: Mapping[str, Kind] = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
_OTHERS: Mapping[str, Kind] = {".parquet": "parquet", ".zip": "zip", ".tar": "tar", ".tgz": "tar"}
_GZIP = ".gz"


def is_picture_name(name: str) -> bool:
    """Return whether `name` ends as the name of a picture does, in any case."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def kind_of(path: Path) -> Kind:
    """Return the kind of a file by the ending of its name: a table, an archive, or else a picture."""
    name = path.name.lower()
    if name.endswith(_GZIP):
        inner = Path(name).with_suffix("").suffix
        return "tar" if inner == ".tar" else _TABLES.get(inner, "picture")
    suffix = Path(name).suffix
    return _TABLES.get(suffix) or _OTHERS.get(suffix) or "picture"


def is_gzip_name(path: Path) -> bool:
    """Return whether the file is compressed with gzip, by its name."""
    return path.name.lower().endswith(_GZIP)


def without_suffixes(path: Path) -> Path:
    """Return the path without the endings of a table: ``a/t`` for ``a/t.jsonl.gz``."""
    plain = path.with_suffix("") if is_gzip_name(path) else path
    return plain.with_suffix("")
