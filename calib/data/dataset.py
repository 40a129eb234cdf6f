"""Data sets of labelled pictures, and the prompts and class names that belong to them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.files.names import in_one_line, is_there
from internvl_edge.runtime.inputs.files.sniff import regular_file
from internvl_edge.runtime.inputs.pictures.decode import decode
from internvl_edge.runtime.inputs.pictures.findings import reason
from internvl_edge.runtime.inputs.pictures.source import content_of
from internvl_edge.runtime.inputs.read import Record, read_records

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_PROMPTS = "prompts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Content of the `prompts.json` beside a table: prompts, class names and templates of each language."""

    caption_prompts: Mapping[str, str] = field(default_factory=dict)
    """Language -> prompt before a caption."""
    classes: tuple[str, ...] = ()
    """Values that `Record.group` takes, in the order of `class_names`."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Language -> names of the classes."""
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Language -> texts with ``{}`` in place of the class name."""


@dataclass(frozen=True)
class DataSet:
    """A data set: its rows in order; pictures are read on demand."""

    source: Path
    rows: tuple[Record, ...]
    prompts: Prompts = field(default_factory=Prompts)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages in which any row has a caption, in the order of appearance."""
        return tuple(dict.fromkeys(language for row in self.rows for language in row.texts))

    def content(self, row: Record) -> bytes:
        """Return the bytes of a picture's file.

        Raises:
            InputError: the file is not there.
        """
        try:
            return content_of(row.picture)
        except UnreadableError as error:
            finding = f"{in_one_line(row.file)} cannot be read ({error})"
            raise InputError(f"{in_one_line(self.source)}: {finding}; repair or remove the row") from error

    def picture(self, row: Record) -> "Picture":
        """Return a picture in RGB.

        Raises:
            InputError: the file is absent or no picture.
        """
        content = self.content(row)
        try:
            return decode(content)
        except UnreadableError as error:
            name = f"{in_one_line(self.source)}: {in_one_line(row.file)}"
            raise InputError(f"{name}: {error}; repair or remove it") from error

    def subsample(self, count: int) -> "DataSet":
        """Return `count` evenly spaced rows, or all rows if there are fewer."""
        if count >= len(self.rows):
            return self
        step = len(self.rows) / count
        return DataSet(self.source, tuple(self.rows[int(index * step)] for index in range(count)), self.prompts)


def open_data(source: Path) -> DataSet:
    """Open a folder of pictures, a table, an archive or a picture, as docs/inputs.md describes; no picture is read.

    Raises:
        InputError: nothing is there, or rows have no picture; all of these are named.
        BackendError: it is Parquet, and pyarrow is not installed.
    """
    if not is_there(source):
        raise InputError(f"{in_one_line(source)}: no such file or folder; give pictures, or a table that names them")
    return DataSet(source, tuple(read_records(source)), _read_prompts(source))


def digest_of(parts: Sequence[bytes]) -> str:
    """Return the identity of a data set from the bytes of its members, in order."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def _read_prompts(source: Path) -> Prompts:
    path = source.parent / _PROMPTS
    if source.is_dir() or not path.exists():
        return Prompts()
    try:
        content: Any = json.loads(regular_file(path).read_text(encoding="utf-8-sig"))
        return Prompts(
            caption_prompts={str(key): str(text) for key, text in content.get("caption_prompts", {}).items()},
            classes=tuple(map(str, content.get("classes", ()))),
            class_names={key: tuple(map(str, names)) for key, names in content.get("class_names", {}).items()},
            templates={
                key: tuple(str(text).replace("{c}", "{}") for text in texts)
                for key, texts in content.get("templates", {}).items()
            },
        )
    except (OSError, UnreadableError) as error:
        raise InputError(f"{in_one_line(path)}: {reason(error)}; give a file that can be read") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{in_one_line(path)}: is no JSON in UTF-8 ({error}); repair it") from error
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{in_one_line(path)}: is not as docs/eval.md describes it (objects by language); repair it"
        ) from error
