"""Read the pictures of a WebDataset shard, or of any zip or tar, with the files of the same name beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from internvl_edge.runtime.errors import UnreadableError
from internvl_edge.runtime.inputs.files.archives import Archive
from internvl_edge.runtime.inputs.files.folders import LeftOut, is_hidden
from internvl_edge.runtime.inputs.files.formats import is_picture_name
from internvl_edge.runtime.inputs.tables.captions import CAPTION_KEYS, GROUP_KEY
from internvl_edge.runtime.inputs.tables.tables import SameNameError, parsed_json

_BESIDE = (".json", ".txt", ".cls")
"""Endings of files that hold the fields, a caption or the class of the picture of the same name."""
_FURTHER = "further pictures of a sample"


@dataclass(frozen=True, slots=True)
class ArchiveRow:
    """A picture of an archive and the fields beside it, or the reason why these cannot be read."""

    member: str
    fields: Mapping[str, Any]
    fault: str | None = None


def archive_rows(archive: Archive, left_out: LeftOut) -> list[ArchiveRow]:
    """Return the pictures of an archive in the archive's order.

    Files beside a picture have its name up to the last dot, or up to the first as in WebDataset, by whose rule
    ``1.seg.png`` belongs to ``1.jpg`` and is no picture of its own.
    """
    pictures, beside = _sorted_out(archive.names(), left_out)
    plain = {_stem(name) for name in pictures if _stem(name) == _key(name)}
    rows, used = [], set()
    for name in pictures:
        own, key = _stem(name), _key(name)
        if own not in beside and own != key and key in beside and key in plain:
            left_out.add(_FURTHER, name)
            continue
        found = own if own in beside else key
        used.add(found)
        rows.append(_row(archive, name, beside.get(found, {})))
    for key, members in beside.items():
        if key not in used:
            for member in members.values():
                left_out.add_other(member)
    return rows


def _sorted_out(names: Sequence[str], left_out: LeftOut) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the names of pictures, and the other files by stem and ending."""
    pictures: list[str] = []
    beside: dict[str, dict[str, str]] = {}
    for name in names:
        ending = PurePosixPath(name).suffix.lower()
        if any(map(is_hidden, PurePosixPath(name).parts)):
            left_out.add_hidden(name)
        elif is_picture_name(name):
            pictures.append(name)
        elif ending in _BESIDE:
            beside.setdefault(_stem(name), {})[ending] = name
        else:
            left_out.add_other(name)
    return pictures, beside


def _row(archive: Archive, name: str, beside: Mapping[str, str]) -> ArchiveRow:
    fields: Any = {}
    try:
        content = {ending: archive.read(member) for ending, member in beside.items()}
        if ".json" in content:
            fields = parsed_json(content[".json"].decode("utf-8-sig", "surrogateescape"))
    except UnreadableError as error:
        return ArchiveRow(name, {}, f"what lies beside it is {error}")
    except SameNameError as error:
        return ArchiveRow(name, {}, f"{beside['.json']} has {error}")
    except (ValueError, RecursionError):
        return ArchiveRow(name, {}, f"{beside['.json']} is no JSON")
    if not isinstance(fields, dict):
        return ArchiveRow(name, {}, f"{beside['.json']} is no object")
    texts = {ending: value.decode("utf-8-sig", "surrogateescape").strip() for ending, value in content.items()}
    if ".txt" in texts and not any(fields.get(key) for key in CAPTION_KEYS):
        fields["caption"] = texts[".txt"]
    if ".cls" in texts and fields.get(GROUP_KEY) is None:
        fields[GROUP_KEY] = texts[".cls"]
    return ArchiveRow(name, fields)


def _stem(name: str) -> str:
    """Return a name up to its last dot."""
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix else name


def _key(name: str) -> str:
    """Return a name up to the first dot of its last part."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".", 1)[0])) if not path.name.startswith(".") else name
