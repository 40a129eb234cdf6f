"""Read tables of text as numbered rows of fields: JSON Lines, JSON, CSV and TSV, also compressed with gzip."""

import ast
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.files.archives import unpacked_parts
from internvl_edge.runtime.inputs.files.formats import is_gzip_name, kind_of
from internvl_edge.runtime.inputs.files.names import in_one_line, system_words
from internvl_edge.runtime.inputs.files.sniff import HEAD_BYTES, no_text
from internvl_edge.runtime.inputs.tables.captions import FILE_KEYS

_BOM = b"\xef\xbb\xbf"
_LARGEST_BYTES = 4 << 30
"""Most bytes of a table in memory, since a compressed one may unpack to any size."""

_LONGEST_CELL = 1 << 16
"""Most characters of a cell that is parsed as a list or an object, since parsers of nested text take much memory."""
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row, or the reason why it cannot be read."""

    number: int
    """Number of the line, from 1, in JSON Lines, CSV and TSV; index of the element, from 0, in JSON and Parquet."""
    fields: Mapping[str, Any]
    fault: str | None = None


class SameNameError(ValueError):
    """A JSON object has two values of one name."""


def parsed_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        SameNameError: an object has two different values of one name, of which parsers keep only one.
        ValueError: the text is no JSON.
        RecursionError: the text is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_as_object)


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        for name, value in pairs:
            if fields[name] != value:
                raise SameNameError(f"two values of `{in_one_line(name)}`")
    return fields


def read_table(source: Path) -> list[TableRow]:
    """Return the rows of a table of text; a row that cannot be read has a fault instead of fields.

    Raises:
        InputError: the file cannot be read, or is no such table at all. The message says what it is.
    """
    content = _content(source)
    if (found := no_text(content[:HEAD_BYTES])) is not None:
        raise InputError(f"{in_one_line(source)}: {found}, not a table; give a whole .jsonl, .json, .csv or .tsv")
    content = content.removeprefix(_BOM)
    kind = kind_of(source)
    if kind == "json":
        return _of_json(source, content)
    if kind in ("csv", "tsv"):
        return list(_of_columns(source, content, "," if kind == "csv" else "\t"))
    return list(_of_lines(content))


def _content(source: Path) -> bytes:
    try:
        with source.open("rb") as file:
            content = _unpacked(source, file) if is_gzip_name(source) else file.read(_LARGEST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{in_one_line(source)}: is no whole gzip file; give a whole one") from error
    except OSError as error:
        finding = system_words(error) or "cannot be read"
        raise InputError(f"{in_one_line(source)}: {finding}; give a table that can be read") from error
    if len(content) > _LARGEST_BYTES:
        raise InputError(f"{in_one_line(source)}: more than {_LARGEST_BYTES >> 30} GiB; cut it into several tables")
    return content


def _unpacked(source: Path, file: BinaryIO) -> bytes:
    content = io.BytesIO()
    try:
        for part in unpacked_parts(file):
            content.write(part)
            if content.tell() > _LARGEST_BYTES:
                break
    except UnreadableError as error:
        raise InputError(f"{in_one_line(source)}: {error}; give it unpacked") from error
    return content.getvalue()


def _of_lines(content: bytes) -> Iterator[TableRow]:
    """Yield a row for each line that is not blank. Only a line feed ends a line: texts may hold other separators."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield _row(number, line)


def _row(number: int, line: bytes) -> TableRow:
    try:
        value = parsed_json(line.decode("utf-8", "surrogateescape"))
    except SameNameError as error:
        return TableRow(number, {}, str(error))
    except (ValueError, RecursionError):
        return TableRow(number, {}, "no JSON")
    return _object(number, value)


def _object(number: int, value: object) -> TableRow:
    return TableRow(number, value) if isinstance(value, dict) else TableRow(number, {}, "no object")


def _of_json(source: Path, content: bytes) -> list[TableRow]:
    """Return the rows of a .json file: an array of objects, columns, COCO's captions, or lines of JSON."""
    try:
        value = parsed_json(content.decode("utf-8", "surrogateescape"))
    except SameNameError as error:
        raise InputError(f"{in_one_line(source)}: {error}; repair it") from error
    except (ValueError, RecursionError) as error:
        rows = list(_of_lines(content))
        if len(rows) > 1 and rows[0].fault is None:  # the file holds lines of JSON
            return rows
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{in_one_line(source)}: is no JSON{where}; repair it") from error
    if isinstance(value, list):
        return [_object(number, element) for number, element in enumerate(value)]
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        return _of_coco(value["images"], value.get("annotations"))
    if isinstance(value, dict) and (columns := _columns(value)) is not None:
        return columns
    if isinstance(value, dict):
        return [TableRow(0, value)]
    raise InputError(f"{in_one_line(source)}: is no array, no columns and no COCO captions; give one of these")


def _of_coco(images: Sequence[Any], annotations: object) -> list[TableRow]:
    """Return a row for each image of COCO's caption files, with captions in the order of the annotations."""
    captions: dict[object, list[Any]] = {}
    for annotation in annotations if isinstance(annotations, list) else ():
        if isinstance(annotation, dict) and "caption" in annotation and annotation.get("image_id") is not None:
            captions.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
    rows = []
    for number, image in enumerate(images):
        row = _object(number, image)
        own = captions.get(str(row.fields.get("id")))
        rows.append(row if own is None else TableRow(number, {**row.fields, "caption": own}, row.fault))
    return rows


def _columns(value: Mapping[str, Any]) -> list[TableRow] | None:
    """Return the rows of columns of equal length: lists, or objects by index as pandas writes them; None for others.

    Objects by index may also hold one row each instead of one column.
    """
    if not value:
        return None
    if all(isinstance(row, dict) and any(key in row for key in FILE_KEYS) for row in value.values()):
        return [TableRow(number, row) for number, row in enumerate(value.values())]
    if all(isinstance(column, list) for column in value.values()):
        columns = dict(value)
    elif all(isinstance(column, dict) for column in value.values()):
        keys = list(next(iter(value.values())))
        if any(list(column) != keys for column in value.values()):
            return None
        columns = {name: list(column.values()) for name, column in value.items()}
    else:
        return None
    if len({len(column) for column in columns.values()}) != 1:
        return None
    return [
        TableRow(number, dict(zip(columns, cells, strict=True)))
        for number, cells in enumerate(zip(*columns.values(), strict=True))
    ]


def _of_columns(source: Path, content: bytes, delimiter: str) -> Iterator[TableRow]:
    """Yield the rows of CSV or TSV with a header; empty cells are left out."""
    text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)  # else an open quote swallows all further rows
    begin = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(filter(None, header))) < len(list(filter(None, header))):
            raise InputError(f"{in_one_line(source)}: columns of one name ({', '.join(header)}); rename them")
        begin = reader.line_num
        for cells in reader:
            begin = reader.line_num
            if not cells:
                continue
            if len(cells) != len(header):
                yield TableRow(reader.line_num, {}, f"{len(cells)} cells for {len(header)} columns")
            else:
                named = zip(header, cells, strict=True)
                yield TableRow(reader.line_num, {name: _cell(cell) for name, cell in named if name and cell})
    except csv.Error as error:
        finding = (
            f"line {begin + 1} begins no row (a quote that is open, or text behind one, or a cell that is too long)"
        )
        raise InputError(f"{in_one_line(source)}: {finding}; repair it") from error


def _cell(text: str) -> Any:
    """Return the value of a cell: a list of texts or an object, in JSON or as Python writes it, or else the text."""
    if len(text) > _LONGEST_CELL or (text[:1], text[-1:]) not in (("[", "]"), ("{", "}")):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict):
            return value
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            texts = _QUOTED.findall(text)  # NumPy writes no commas, and Python would join 'x' 'y'
            apart = parse is ast.literal_eval and len(texts) > len(value)
            return list(map(ast.literal_eval, texts)) if apart else value
    return text
