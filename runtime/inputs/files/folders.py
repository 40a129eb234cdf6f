"""The pictures of a folder at any depth, through links too, and a count of what is left out."""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from internvl_edge.runtime.inputs.files.formats import is_picture_name
from internvl_edge.runtime.inputs.files.names import in_one_line

_NAMED = 3
_HIDDEN = "hidden"
_OTHER = "no pictures by their names"
_MACOS = "__MACOSX"
"""Folder of an archive made on macOS that repeats the name of every picture with something else in it."""


class LeftOut:
    """What a folder or a table holds and is not taken, by reason."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, why: str, name: str) -> None:
        """Count one thing; `why` names several of its kind."""
        self._found.setdefault(why, []).append(name)

    def add_other(self, name: str) -> None:
        """Count a file that is no picture by its name."""
        self.add(_OTHER, name)

    def add_hidden(self, name: str) -> None:
        """Count a file or folder that is hidden."""
        self.add(_HIDDEN, name)

    def text(self) -> str:
        """Return all of it in one line; empty if there is nothing."""
        return "; ".join(f"{len(names)} {why} ({_named(why, names)})" for why, names in self._found.items())


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over: dot files, and what macOS puts into archives."""
    return name.startswith(".") or name == _MACOS


def folder_pictures(folder: Path, left_out: LeftOut) -> list[Path]:
    """Return the picture files below `folder` at any depth, sorted by their parts.

    Links to folders are followed. A folder is read once, by its own name rather than a link's, so that loops end.

    Raises:
        OSError: `folder` itself cannot be read.
    """
    found: list[Path] = []
    seen = {_identity(folder)}
    links: list[Path] = []
    _gather(folder, folder, found, links, seen, left_out)
    while links:
        links.sort(key=lambda path: path.parts, reverse=True)
        link = links.pop()
        identity = _identity(link)
        if identity in seen:
            left_out.add("links to folders that are read already", _below(link, folder))
            continue
        seen.add(identity)
        _gather(link, folder, found, links, seen, left_out)
    return sorted(found)


def _gather(
    start: Path, root: Path, found: list[Path], links: list[Path], seen: set[tuple[int, int]], left_out: LeftOut
) -> None:
    """Add the pictures below `start`, and the links to folders, which are not followed yet."""
    pending = [start]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if folder == root:
                raise
            left_out.add("folders that cannot be read", _below(folder, root))
            continue
        for entry in listed:
            path = folder / entry.name
            if is_hidden(entry.name):
                left_out.add_hidden(_below(path, root))
            elif _is_folder(entry):
                if entry.is_symlink():
                    links.append(path)
                else:
                    seen.add(_identity(path))
                    pending.append(path)
            elif not is_picture_name(entry.name):
                left_out.add_other(_below(path, root))
            elif _is_other_than_file(entry):
                left_out.add("neither files nor folders", _below(path, root))
            else:
                found.append(path)  # a link that leads nowhere too: it is told when it is read


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_other_than_file(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a pipe, a device or a socket: reading one may never end."""
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _named(why: str, names: Sequence[str]) -> str:
    if why == _OTHER:
        kinds = Counter(Path(name).suffix.lower() or Path(name).name for name in names)
        return ", ".join(f"{in_one_line(kind)}: {count}" for kind, count in kinds.most_common(2 * _NAMED))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(in_one_line, names[:_NAMED])) + more
