"""Read pictures with captions, or texts, from a folder, a table, an archive or a file, for all commands."""

import logging
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.archives import Archive, open_archive
from internvl_edge.runtime.inputs.files.folders import LeftOut, folder_pictures
from internvl_edge.runtime.inputs.files.formats import Kind, kind_of, without_suffixes
from internvl_edge.runtime.inputs.files.names import in_one_line, is_folder, is_there, system_words
from internvl_edge.runtime.inputs.pictures.source import ArchivedPicture, PictureFile, SourcePicture, UnusablePicture
from internvl_edge.runtime.inputs.tables.captions import (
    CAPTION_KEYS,
    FILE_KEYS,
    GROUP_KEY,
    file_of,
    labels_of,
    texts_of,
)
from internvl_edge.runtime.inputs.tables.parquet import IMAGE_COLUMN, ParquetPicture, ParquetTable
from internvl_edge.runtime.inputs.tables.shards import archive_rows
from internvl_edge.runtime.inputs.tables.tables import TableRow, read_table

logger = logging.getLogger(__name__)

OnError = Literal["fail", "skip"]
"""Treatment of rows without a picture or a text: an error that names all, or entries that carry the reason."""
_NAMED = 8
_REASONS = 4
_BY_LINES: tuple[Kind, ...] = ("lines", "csv", "tsv")
_UNUSED = "rows whose captions or class are not used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One picture with its captions and class."""

    file: str
    """Name of the picture in its folder, table or archive."""
    picture: SourcePicture
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Captions by language, which is "" where the row names none."""
    group: str | None = None
    """Class of the picture; None where it has none."""

    def captions(self) -> list[tuple[str, str]]:
        """Return every caption with its language, in order."""
        return [(language, text) for language, texts in self.texts.items() for text in texts]


@dataclass(frozen=True, slots=True)
class UnusableText:
    """A row without a text, and the reason, where such rows are skipped."""

    name: str
    why: str


def read_records(source: Path, on_error: OnError = "fail") -> list[Record]:
    """Return the pictures of a folder, table, archive or file in order, without reading them.

    Other files in a folder or an archive, and captions that cannot be used, are reported in one warning.

    Raises:
        InputError: the source cannot be read, has no picture, or (with `on_error` fail) has rows without a picture, all
        of
            them named.
        BackendError: the source is Parquet, and pyarrow is not installed.
    """
    left_out = LeftOut()
    kind = kind_of(source)
    if is_folder(source):
        records = _of_folder(source, left_out)
    elif kind == "picture":
        records = [Record(file=source.name, picture=PictureFile(source))]
    else:
        reader = _of_archive if kind in ("zip", "tar") else _of_parquet if kind == "parquet" else _of_table
        faults: list[tuple[int, str]] = []
        records = list(reader(source, left_out, faults))
        if faults and on_error == "fail":
            raise InputError(f"{in_one_line(source)}: {faults_text(kind, faults)}; repair or remove them: {_REMEDY}")
    text = left_out.text()
    if not records:
        more = f" ({text})" if text else ""
        raise InputError(
            f"{in_one_line(source)}: no picture found{more}; give a folder of pictures, or a table with a `file` per"
            " row (docs/inputs.md)"
        )
    if text:
        logger.warning("%s: left out: %s", in_one_line(source), text)
    return records


_REMEDY = "a table has a `file` per row (docs/inputs.md)"


def find_pictures(sources: Sequence[Path], on_error: OnError = "fail") -> list[SourcePicture]:
    """Return the pictures of `sources`, in order and as often as they are listed.

    Raises:
        InputError: as for `read_records`.
        BackendError: as for `read_records`.
    """
    return [record.picture for source in sources for record in read_records(source, on_error)]


def find_texts(sources: Sequence[Path], column: str, on_error: OnError = "fail") -> list[str | UnusableText]:
    """Return the texts of one field of tables. A list of texts, or a text for each language, counts as several.

    Raises:
        InputError: a table cannot be read, has no text, or (with `on_error` fail) has rows without one, all of them
        named.
        BackendError: a table is Parquet, and pyarrow is not installed.
    """
    texts: list[str | UnusableText] = []
    for source in sources:
        found: list[str | UnusableText] = []
        faults: list[tuple[int, str]] = []
        for row in _fields(source, column):
            values = _texts(row, column)
            if values is None:
                why = row.fault or f"no text in {column}"
                faults.append((row.number, why))
                found.append(UnusableText(f"{in_one_line(source)}:{row.number}", why))
            else:
                found += values
        if not found or (faults and on_error == "fail"):
            finding = faults_text(kind_of(source), faults) if faults else f"no text in {column}"
            raise InputError(
                f"{in_one_line(source)}: {finding}; give the name of a field that holds a text or a list of texts"
            )
        texts += found
    return texts


def faults_text(kind: Kind, faults: Sequence[tuple[int, str]]) -> str:
    """Return the numbers of faulty rows by reason, cut to the first reasons and numbers."""
    rows = "line" if kind in _BY_LINES else "row"
    reasons: dict[str, list[int]] = {}
    for number, why in faults:
        reasons.setdefault(why, []).append(number)
    parts = [
        f"{rows}{'s' if len(numbers) > 1 else ''} {_shown(numbers)}: {why}"
        for why, numbers in list(reasons.items())[:_REASONS]
    ]
    rest = sum(len(numbers) for numbers in list(reasons.values())[_REASONS:])
    return "; ".join(parts) + (f"; and {rest} more" if rest else "")


def _texts(row: TableRow, column: str) -> Sequence[str] | None:
    value = row.fields.get(column)
    if row.fault is not None or value is None:
        return None
    if not isinstance(value, Mapping):
        return texts_of(value)
    parts = [texts_of(part) for part in value.values() if part is not None]
    return None if None in parts or not parts else [text for part in parts for text in part or ()]


def _fields(source: Path, column: str) -> Iterator[TableRow]:
    """Yield the rows of a table (one column of Parquet), or the fields beside the pictures of an archive."""
    kind = kind_of(source)
    if kind == "picture" or is_folder(source):
        remedy = f"give a .jsonl or .parquet, or another table of docs/inputs.md, with a field {column}"
        raise InputError(f"{in_one_line(source)}: no table; {remedy}")
    if kind == "parquet":
        table = ParquetTable(source)
        if column not in table.columns:
            names = ", ".join(table.columns)
            raise InputError(f"{in_one_line(source)}: has no column {column} (it has {names}); name one")
        yield from table.rows([column])
    elif kind in ("zip", "tar"):
        rows = archive_rows(open_archive(source), LeftOut())
        yield from (TableRow(number, row.fields, row.fault) for number, row in enumerate(rows))
    else:
        yield from read_table(source)


def _of_folder(source: Path, left_out: LeftOut) -> list[Record]:
    try:
        paths = folder_pictures(source, left_out)
    except OSError as error:
        finding = system_words(error) or "cannot be read"
        raise InputError(f"{in_one_line(source)}: {finding}; give a folder that can be read") from error
    return [Record(file=path.relative_to(source).as_posix(), picture=PictureFile(path)) for path in paths]


def _of_archive(source: Path, left_out: LeftOut, faults: list[tuple[int, str]]) -> Iterator[Record]:
    archive = open_archive(source)
    for number, row in enumerate(archive_rows(archive, left_out)):
        picture = ArchivedPicture(f"{source}/{row.member}", archive, row.member)
        table_row = TableRow(number, row.fields, row.fault)
        yield _labelled(source, table_row, row.member, picture, left_out, faults)


def _of_parquet(source: Path, left_out: LeftOut, faults: list[tuple[int, str]]) -> Iterator[Record]:
    table = ParquetTable(source)
    in_place = IMAGE_COLUMN in table.columns and FILE_KEYS[0] not in table.columns
    if not in_place and any(key in table.columns for key in FILE_KEYS):
        rows = table.rows((*FILE_KEYS, *CAPTION_KEYS, GROUP_KEY))
        yield from _listed(source, rows, left_out, faults)
        return
    if IMAGE_COLUMN not in table.columns:
        names = ", ".join(table.columns)
        raise InputError(f"{in_one_line(source)}: has neither column file nor image (it has {names}); rename one")
    table.require_pictures()
    changed = source.stat().st_mtime_ns
    for row in table.rows((*CAPTION_KEYS, GROUP_KEY)):
        picture = ParquetPicture(source, row.number, changed)
        yield _labelled(source, row, str(row.number), picture, left_out, faults)


def _of_table(source: Path, left_out: LeftOut, faults: list[tuple[int, str]]) -> Iterator[Record]:
    yield from _listed(source, read_table(source), left_out, faults)


def _listed(
    source: Path, rows: Iterator[TableRow] | Sequence[TableRow], left_out: LeftOut, faults: list[tuple[int, str]]
) -> Iterator[Record]:
    """Yield the pictures that rows name, in the .zip beside the table if there is one, else relative to its folder."""
    archive = archive_beside(source)
    for row in rows:
        file, why = (None, row.fault) if row.fault else file_of(row.fields)
        if file is None:
            faults.append((row.number, why or ""))
            yield _unusable(source, row.number, why or "")
        else:
            yield _labelled(source, row, file, named_picture(source, file, archive), left_out, faults)


def archive_beside(source: Path) -> Archive | None:
    """Return the .zip of the same name beside a table, in which its pictures are looked up first; None without one."""
    beside = without_suffixes(source).with_suffix(".zip")
    return open_archive(beside) if beside.is_file() else None


def named_picture(source: Path, file: str, archive: Archive | None) -> SourcePicture:
    """Return the picture that a row of the table `source` names, from the archive beside it or relative to its folder.

    An absolute name is a file on disk.
    """
    path = source.parent / file  # an absolute path stays as it is
    if archive is None or Path(file).is_absolute():
        return PictureFile(path)
    member = file if archive.has(file) else posixpath.normpath(file)
    if not archive.has(member) and is_there(path):
        return PictureFile(path)
    return ArchivedPicture(str(path), archive, member)


def _labelled(
    source: Path,
    row: TableRow,
    file: str,
    picture: SourcePicture,
    left_out: LeftOut,
    faults: list[tuple[int, str]],
) -> Record:
    labels, why = labels_of(row.fields)
    if why := row.fault or why:
        faults.append((row.number, why))
        return _unusable(source, row.number, why)
    if labels.unused:
        left_out.add(_UNUSED, f"{row.number}: {', '.join(labels.unused)}")
    return Record(file=file, picture=picture, texts=labels.texts, group=labels.group)


def _unusable(source: Path, number: int, why: str) -> Record:
    name = f"{source}:{number}"
    return Record(file=name, picture=UnusablePicture(name, why))


def _shown(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return ", ".join(map(str, numbers[:_NAMED])) + more
