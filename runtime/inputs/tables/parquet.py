"""Read tables in Parquet: rows of columns, and pictures whose bytes are in a column."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.files.names import in_one_line, system_words
from internvl_edge.runtime.inputs.files.sniff import described, head_of, regular_file
from internvl_edge.runtime.inputs.pictures.source import PictureFile
from internvl_edge.runtime.inputs.tables.arrow import pyarrow_parquet
from internvl_edge.runtime.inputs.tables.tables import TableRow

IMAGE_COLUMN = "image"
_HELD_BYTES = 256 << 20
"""Most bytes of row groups in memory, of which two are held at any size. Threads read in order, a few batches apart."""
_REMEDY = "give a whole .parquet"
_KEPT = 4
"""Number of tables that are kept open at once, with their row groups in memory."""


@dataclass(frozen=True, slots=True)
class ParquetPicture:
    """A picture whose bytes are in a row of a Parquet file."""

    path: Path
    row: int
    changed: int
    """Time of the file's last change when it was found, in nanoseconds."""

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    @property
    def name(self) -> str:
        """Return the file and the row."""
        return f"{self.path}:{self.row}"

    def content(self) -> bytes | Path:
        """Return the bytes of the picture, or the path of the file that the row names instead.

        Raises:
            UnreadableError: the row has neither.
        """
        return _images(self.path, self.changed).read(self.row)

    def stamp(self) -> tuple[int, int]:
        """Return size and time of the Parquet file, since a row has none of its own."""
        return PictureFile(self.path).stamp()


class ParquetTable:
    """An open Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _opened(path)

    @property
    def columns(self) -> Sequence[str]:
        """Return the names of the columns."""
        return list(self._file.schema_arrow.names)

    def rows(self, columns: Sequence[str]) -> Iterator[TableRow]:
        """Yield all rows, with those of `columns` that the table has.

        Raises:
            InputError: some rows cannot be read.
        """
        chosen = [name for name in columns if name in self.columns]
        if not chosen:
            yield from (TableRow(row, {}) for row in range(self._file.metadata.num_rows))
            return
        number = 0
        batches = self._file.iter_batches(columns=chosen)
        while (rows := self._next_rows(batches, number)) is not None:
            for fields in rows:
                yield TableRow(number, fields)
                number += 1

    def _next_rows(self, batches: Iterator[Any], number: int) -> list[dict[str, Any]] | None:
        """Return the rows of the next batch; None after the last."""
        try:
            batch = next(batches, None)
            return None if batch is None else list(batch.to_pylist())
        except (OSError, ValueError) as error:  # pyarrow's errors on data are both
            finding = f"rows from {number} on are damaged, or text that is no UTF-8"
            raise InputError(f"{in_one_line(self.path)}: {finding}; {_REMEDY}") from error

    def require_pictures(self) -> None:
        """Check that the column `image` may hold pictures.

        Raises:
            InputError: the column holds text.
        """
        if str(self._file.schema_arrow.field(IMAGE_COLUMN).type) in ("string", "large_string"):
            raise InputError(f"{in_one_line(self.path)}: column image holds text, no pictures; rename it to file")


class _Images:
    """The column `image`, read by row groups. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = file = _opened(path)
        groups = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        self._starts = [0, *accumulate(groups)]
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Any] = OrderedDict()

    def read(self, row: int) -> bytes | Path:
        """Return the bytes of a row, or the path of the file where it has only that, as tables of the Hub may.

        Raises:
            UnreadableError: the row has neither, or the table is damaged there.
        """
        group = bisect_right(self._starts, row) - 1
        try:
            value = self._column(group)[row - self._starts[group]].as_py()
        except (OSError, ValueError, IndexError) as error:  # pyarrow's errors on data, or fewer rows than declared
            raise UnreadableError("broken in its table") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return content
        path = value.get("path") if isinstance(value, dict) else None
        if isinstance(path, str) and path:
            return self._path.parent / path
        raise UnreadableError("no bytes in column image")

    def _column(self, group: int) -> Any:
        with self._lock:  # a ParquetFile is not thread-safe
            if group not in self._held:
                self._held[group] = self._file.read_row_group(group, columns=[IMAGE_COLUMN]).column(0)
                while len(self._held) > 2 and sum(column.nbytes for column in self._held.values()) > _HELD_BYTES:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group]


@lru_cache(maxsize=_KEPT)
def _images(path: Path, changed: int) -> _Images:
    return _Images(path)


def _opened(source: Path) -> Any:
    pyarrow, parquet = pyarrow_parquet()
    try:
        return parquet.ParquetFile(regular_file(source))
    except UnreadableError as error:
        raise InputError(f"{in_one_line(source)}: {error}; give a .parquet, which is no pipe") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{in_one_line(source)}: {_finding(source, error)}; {_REMEDY}") from error


def _finding(source: Path, error: Exception) -> str:
    if isinstance(error, OSError) and (words := system_words(error)) is not None:
        return words
    try:
        found = described(head_of(source))
    except OSError as finding:
        return system_words(finding) or "cannot be read"
    whole = found in (None, "a Parquet table")
    return "cannot be read as Parquet" if whole else f"cannot be read as Parquet: it is {found}"
