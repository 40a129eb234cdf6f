"""Labelled pictures on disk: a folder, or a JSONL whose files lie beside it or inside a .zip of the same stem."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from internvl_edge.runtime.decode import decode
from internvl_edge.runtime.errors import InputError, UnreadableError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_NO_LANGUAGE = ""
"""Language of a caption whose row does not say one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One picture and what is known of it."""

    file: str
    texts: Mapping[str, str] = field(default_factory=dict)
    """Language code -> caption."""
    group: str | None = None
    """Class of the picture, for zero-shot accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What `prompts.json` beside a JSONL says: how to ask in each language."""

    caption_prompts: Mapping[str, str] = field(default_factory=dict)
    """Language -> text after which a caption follows."""
    classes: tuple[str, ...] = ()
    """Values that `Row.group` takes, in the order of `class_names`."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Language -> texts with ``{}`` where the class name goes."""


@dataclass(frozen=True)
class DataSet:
    """Rows in order; pictures are read when asked for."""

    source: Path
    rows: tuple[Row, ...]
    prompts: Prompts = field(default_factory=Prompts)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that any row has a caption in, in order of appearance."""
        return tuple(dict.fromkeys(language for row in self.rows for language in row.texts))

    def content(self, row: Row) -> bytes:
        """Return the bytes of a picture's file.

        Raises:
            InputError: the file is not there.
        """
        try:
            return self._archive.read(row.file) if self._archive is not None else (self._folder / row.file).read_bytes()
        except (KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{self.source}: {row.file} cannot be read ({error}); repair or remove the row") from error

    def picture(self, row: Row) -> Image.Image:
        """Return a picture in RGB.

        Raises:
            InputError: the file is absent or no picture.
        """
        return picture_of(self.content(row), f"{self.source}: {row.file}")

    def spread(self, count: int) -> "DataSet":
        """Return `count` rows spread evenly over the set, all of them if there are fewer."""
        if count >= len(self.rows):
            return self
        step = len(self.rows) / count
        return DataSet(self.source, tuple(self.rows[int(index * step)] for index in range(count)), self.prompts)

    @property
    def _folder(self) -> Path:
        return self.source if self.source.is_dir() else self.source.parent

    @cached_property
    def _archive(self) -> zipfile.ZipFile | None:
        path = self.source.with_suffix(".zip")
        return zipfile.ZipFile(path) if self.source.suffix == ".jsonl" and path.exists() else None


def open_data(source: Path) -> DataSet:
    """Open a folder of pictures or a JSONL; reads no picture.

    A line is an object with `file`, and where known `label`, `caption` or `text` (a string, or one per language) and
    `group`.

    Raises:
        InputError: nothing is there, or lines that say no file inside the folder, all of them named.
    """
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
        rows = tuple(Row(file=path.relative_to(source).as_posix()) for path in files)
    elif source.suffix == ".jsonl" and source.exists():
        rows = _read_rows(source)
    else:
        raise InputError(f"{source}: neither a folder nor a .jsonl file; give pictures to measure on")
    if not rows:
        raise InputError(f"{source}: no picture found; give a folder of pictures or a JSONL with a `file` per line")
    return DataSet(source, rows, _read_prompts(source))


def picture_of(content: bytes, name: str) -> Image.Image:
    """Return the picture that `content` encodes, in RGB.

    Raises:
        InputError: it encodes none.
    """
    try:
        return decode(content)
    except UnreadableError as error:
        raise InputError(f"{name}: {error}; repair or remove it") from error


def digest_of(parts: Sequence[bytes]) -> str:
    """Return the identity of a data set from the bytes of its members, in order."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def _read_rows(path: Path) -> tuple[Row, ...]:
    rows, wrong = [], []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):  # captions may hold other separators
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            wrong.append(str(number))
    if wrong:
        shown = ", ".join(wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise InputError(f"{path}: lines {shown} are no object with a `file` inside its folder; repair them")
    return tuple(rows)


def _row(content: Mapping[str, Any]) -> Row:
    file = PurePosixPath(content["file"])
    if file.is_absolute() or ".." in file.parts:
        raise ValueError(f"{file} lies outside of the folder")
    return Row(file=content["file"], texts=_texts(content), group=content.get("group"))


def _texts(content: Mapping[str, Any]) -> dict[str, str]:
    for key in ("label", "caption", "text"):
        if isinstance(value := content.get(key), dict):
            return {str(language): str(text) for language, text in value.items() if text is not None}
        if isinstance(value, str):
            return {_NO_LANGUAGE: value}
    return {}


def _read_prompts(source: Path) -> Prompts:
    path = source.parent / "prompts.json"
    if source.is_dir() or not path.exists():
        return Prompts()
    try:
        content = json.loads(_read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error}); repair it") from error
    return Prompts(
        caption_prompts=content.get("caption_prompts", {}),
        classes=tuple(content.get("classes", ())),
        class_names={key: tuple(names) for key, names in content.get("class_names", {}).items()},
        templates={
            key: tuple(text.replace("{c}", "{}") for text in texts)
            for key, texts in content.get("templates", {}).items()
        },
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text ({error}); convert it") from error
