"""Which formats of pictures are read, and which names of files mean a picture, a table or an archive."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["picture", "lines", "json", "csv", "tsv", "parquet", "zip", "tar"]
"""What a file is taken for by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFormat:
    """One format: its decoder and its names."""

    plugin: str
    """Module of Pillow that decodes it."""
    suffixes: tuple[str, ...]
    feature: str | None = None
    """Name for `PIL.features.check` where Pillow may be built without the decoder."""


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
"""Pillow's names of all formats that are ever decoded, for every command and the server.

Each is decoded inside this process. Pillow knows more, and none of them belongs here: it hands EPS to Ghostscript,
WMF and EMF to Windows, and others lead it to parsers that hardly anybody looks at.
"""
PICTURE_SUFFIXES = tuple(suffix for known in PICTURE_FORMATS.values() for suffix in known.suffixes)
"""What a name inside a folder or an archive ends in when it is a picture; a file that is listed may be called anything.
"""
_TABLES: Mapping[str, Kind] = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
_OTHERS: Mapping[str, Kind] = {".parquet": "parquet", ".zip": "zip", ".tar": "tar", ".tgz": "tar"}
_GZIP = ".gz"
TABLES_AND_ARCHIVES = ".jsonl .ndjson .json .csv .tsv (each also .gz), .parquet, .zip, .tar, .tar.gz, .tgz"


def is_picture_name(name: str) -> bool:
    """Whether the ending of `name` is that of a picture, in capitals or not."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def kind_of(path: Path) -> Kind:
    """Return what a file is taken for: by its name's ending a table or an archive, a picture where that is no other."""
    name = path.name.lower()
    if name.endswith(_GZIP):
        inner = Path(name).with_suffix("").suffix
        return "tar" if inner == ".tar" else _TABLES.get(inner, "picture")
    suffix = Path(name).suffix
    return _TABLES.get(suffix) or _OTHERS.get(suffix) or "picture"


def is_gzip_name(path: Path) -> bool:
    """Whether the name says that the file is packed with gzip."""
    return path.name.lower().endswith(_GZIP)


def without_suffixes(path: Path) -> Path:
    """Return the path without the endings that make it a table: ``a/t`` of ``a/t.jsonl.gz``."""
    plain = path.with_suffix("") if is_gzip_name(path) else path
    return plain.with_suffix("")
