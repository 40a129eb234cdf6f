"""Find the pictures of a folder at any depth, following links, and count what is left out."""

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
"""Folder in archives made on macOS, which repeats the name of every picture for files that are no pictures."""


class LeftOut:
    """Files of a folder, or entries of a table, that are left out, by reason."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, why: str, name: str) -> None:
        """Count one entry with the reason `why`, a phrase in the plural."""
        self._found.setdefault(why, []).append(name)

    def add_other(self, name: str) -> None:
        """Count a file whose name is not that of a picture."""
        self.add(_OTHER, name)

    def add_hidden(self, name: str) -> None:
        """Count a hidden file or folder."""
        self.add(_HIDDEN, name)

    def text(self) -> str:
        """Return a summary in one line; empty if nothing was left out."""
        return "; ".join(f"{len(names)} {why} ({_named(why, names)})" for why, names in self._found.items())


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden: its name begins with a dot, or macOS puts it into archives."""
    return name.startswith(".") or name == _MACOS


def folder_pictures(folder: Path, left_out: LeftOut) -> list[Path]:
    """Return the picture files below `folder` at any depth, sorted by the parts of their paths.

    Links to folders are followed. A folder is read once, under its own path rather than a link's, so that loops end.

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
    """Add the pictures below `start` to `found`, and links to folders to `links`, which are followed later."""
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
                found.append(path)  # broken links too: reading them reports the error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # the entry is a link to itself
        return False


def _is_other_than_file(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is a pipe, a device or a socket, whose reading may never end."""
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
