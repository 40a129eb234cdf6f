"""Pictures and texts by name: of a folder, of a JSONL or Parquet table, or listed one by one."""

import json
import threading
import zipfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from internvl_edge.runtime.decode import Readable
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.pipeline.arrow import pyarrow_parquet

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""What counts as a picture inside a folder; a listed file may be called anything."""
_NAMED = 8
_REOPENED = 4
"""Archives and tables that a worker of a cluster keeps open."""
_HELD_BYTES = 256 << 20
"""Of row groups of a Parquet file: threads read in order, a few batches apart. Two are held whatever their size."""


class SourcePicture(Readable, Protocol):
    """A picture whose features can be taken from an earlier run, unless it has changed."""

    def stamp(self) -> tuple[int, int]:
        """Return what changes when the picture does; zeros where it is not there."""
        ...


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture on disk."""

    path: Path

    @property
    def name(self) -> str:
        """Return its path."""
        return str(self.path)

    def content(self) -> Path:
        """Return its path."""
        return self.path

    def stamp(self) -> tuple[int, int]:
        """Return its size and the time of its last change."""
        try:
            found = self.path.stat()
        except OSError:  # not there
            return 0, 0
        return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class ZippedPicture:
    """A picture in an archive, which several threads may read."""

    name: str
    archive: zipfile.ZipFile
    member: str

    def content(self) -> bytes:
        """Return its bytes.

        Raises:
            KeyError: the archive has no such member.
        """
        return self.archive.read(self.member)

    def stamp(self) -> tuple[int, int]:
        """Return its size and checksum."""
        info = self.archive.NameToInfo.get(self.member)
        return (0, 0) if info is None else (info.file_size, info.CRC)


@dataclass(frozen=True, slots=True)
class ParquetPicture:
    """A picture whose bytes are in a row of a Parquet file."""

    rows: "_ParquetImages"
    row: int

    @property
    def name(self) -> str:
        """Return the file and the row."""
        return f"{self.rows.path}:{self.row}"

    def content(self) -> bytes:
        """Return its bytes.

        Raises:
            ValueError: the row holds none.
        """
        return self.rows.read(self.row)

    def stamp(self) -> tuple[int, int]:
        """Return the size and time of the file: a row has none of its own."""
        return PictureFile(self.rows.path).stamp()


def find_pictures(sources: Sequence[Path]) -> list[SourcePicture]:
    """Return the pictures of `sources`, each a folder (searched to any depth, sorted), .jsonl, .parquet or picture.

    A JSONL has an object with `file` a line, as `docs/eval.md` describes it. Parquet has a column `file`, or pictures
    as they are stored in a column `image`: binary, or a struct with `bytes`.

    Raises:
        InputError: a folder or table without pictures, or rows that name no file inside the folder.
        BackendError: Parquet without pyarrow.
    """
    return [picture for source in sources for picture in _of(source)]


def find_texts(sources: Sequence[Path], column: str) -> list[str]:
    """Return the texts of one column of JSONL and Parquet tables; a list of texts in a row counts as several.

    Raises:
        InputError: a table that cannot be read, has no text, or rows that have something else there, all of a file.
        BackendError: Parquet without pyarrow.
    """
    texts = []
    for source in sources:
        found, wrong = [], []
        for number, value in _column(source, column):
            row = value if isinstance(value, list) else [value]
            if all(isinstance(text, str) for text in row):
                found += row
            else:
                wrong.append(number)
        if wrong or not found:
            finding = f"rows {_shown(wrong)} have no text in {column}" if wrong else f"no text in {column}"
            raise InputError(f"{source}: {finding}; give the name of a field that holds a text or a list of texts")
        texts += found
    return texts


def _of(source: Path) -> Sequence[SourcePicture]:
    found: Sequence[SourcePicture]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        found = [PictureFile(path) for path in paths]
    elif source.suffix == ".jsonl":
        found = _listed(source, _lines(source))
    elif source.suffix == ".parquet":
        found = _of_parquet(source)
    else:
        return [PictureFile(source)]
    if not found:
        raise InputError(f"{source}: no picture found; give a folder of pictures or a table with a `file` per row")
    return found


def _listed(source: Path, rows: Sequence[tuple[int, Any]]) -> list[SourcePicture]:
    """Return the pictures that `rows` (number and object) name, out of the .zip beside `source` if there is one."""
    archive = _archive(source.with_suffix(".zip"))
    files, wrong = [], []
    for number, row in rows:
        file = row.get("file") if isinstance(row, dict) else None
        if isinstance(file, str) and _is_inside(file):
            files.append(file)
        else:
            wrong.append(number)
    if wrong:
        raise InputError(f"{source}: rows {_shown(wrong)} are no object with a `file` inside its folder; repair them")
    paths = [source.parent / file for file in files]
    if archive is None:
        return [PictureFile(path) for path in paths]
    return [ZippedPicture(str(path), archive, file) for path, file in zip(paths, files, strict=True)]


class _Archive(zipfile.ZipFile):
    """An archive that another process opens by its path."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened_archive, (Path(str(self.filename)),)


@lru_cache(maxsize=_REOPENED)
def _reopened_archive(path: Path) -> zipfile.ZipFile:
    return _Archive(path)


@lru_cache(maxsize=_REOPENED)
def _reopened_table(path: Path) -> "_ParquetImages":
    return _ParquetImages(path, _parquet_file(path))


def _archive(path: Path) -> zipfile.ZipFile | None:
    try:
        return _Archive(path) if path.exists() else None
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a whole .zip, or take it away") from error


def _is_inside(file: str) -> bool:
    path = PurePosixPath(file)
    nameable = "\0" not in file and not any("\ud800" <= character <= "\udfff" for character in file)
    return nameable and bool(path.name) and not path.is_absolute() and ".." not in path.parts


def _lines(source: Path) -> list[tuple[int, Any]]:
    """Return number and value of each line, None where it is no JSON."""
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")  # captions may hold other separators
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read ({error}); give a JSONL in UTF-8") from error
    return [(number, _parsed(line)) for number, line in enumerate(lines, start=1) if line.strip()]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _column(source: Path, column: str) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each row."""
    if source.suffix == ".jsonl":
        for number, row in _lines(source):
            yield number, row.get(column) if isinstance(row, dict) else None
        return
    if source.suffix != ".parquet":
        raise InputError(f"{source}: no table; give a .jsonl or .parquet with a field {column}")
    file = _parquet_file(source)
    if column not in file.schema_arrow.names:
        raise InputError(f"{source}: has no column {column} (it has {', '.join(file.schema_arrow.names)}); name one")
    yield from enumerate(
        value for batch in file.iter_batches(columns=[column]) for value in batch.column(0).to_pylist()
    )


def _of_parquet(source: Path) -> Sequence[SourcePicture]:
    file = _parquet_file(source)
    names = file.schema_arrow.names
    if "file" in names:
        files = file.read(columns=["file"]).column(0).to_pylist()
        return _listed(source, [(row, {"file": name}) for row, name in enumerate(files)])
    if "image" not in names:
        raise InputError(f"{source}: has neither column file nor image (it has {', '.join(names)}); rename one")
    rows = _ParquetImages(source, file)
    return [ParquetPicture(rows, row) for row in range(file.metadata.num_rows)]


class _ParquetImages:
    """The column `image`, a row group at a time. Threads may share it."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        groups = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        self._starts = [0, *accumulate(groups)]
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Any] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened_table, (self.path,)

    def read(self, row: int) -> bytes:
        group = bisect_right(self._starts, row) - 1
        value = self._column(group)[row - self._starts[group]].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ValueError("no bytes in column image")
        return content

    def _column(self, group: int) -> Any:
        with self._lock:  # a ParquetFile reads for one thread
            if group not in self._held:
                self._held[group] = self._file.read_row_group(group, columns=["image"]).column(0)
                while len(self._held) > 2 and sum(column.nbytes for column in self._held.values()) > _HELD_BYTES:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group]


def _parquet_file(source: Path) -> Any:
    pyarrow, parquet = pyarrow_parquet()
    try:
        return parquet.ParquetFile(source)
    except (OSError, pyarrow.ArrowException) as error:
        finding = str(error).splitlines()[0]
        raise InputError(f"{source}: cannot be read as Parquet ({finding}); give a whole file") from error


def _shown(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return ", ".join(map(str, numbers[:_NAMED])) + more
