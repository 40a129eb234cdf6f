"""A folder that appears whole or not at all, and what a bundle's files become in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.file_copy import copy_file, share_blocks
from internvl_edge.runtime.outputs.folders import folder_at


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give a folder beside `output` to write into; it gets that name when the block ends well, and is removed if not.

    Raises:
        InputError: `output` is there already, or cannot be written.
    """
    output = folder_at(output)
    if output.exists():
        raise InputError(f"{output}: is there already; remove it, or name another folder")
    partial = output.parent / f".{output.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(output)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); make room, or name another") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@dataclass(slots=True, kw_only=True)
class FileCopies:
    """Puts a bundle's files into a folder; the bundle itself is never changed, its link counts included."""

    link: bool = False
    """Give the second and later copies of a file as hard links to the first."""
    _first: dict[Path, Path] = field(default_factory=dict)

    def place(self, source: Path, target: Path) -> None:
        """Make `target` a copy of `source`, sharing blocks where the file system can.

        Raises:
            InputError: hard links are asked for, and the file system has none.
        """
        first = self._first.setdefault(source, target)
        if not self.link or first is target:
            copy_file(source, target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(first, target)
        except OSError as error:
            raise InputError(
                f"{target.parent}: --weights link: no hard links here ({error.strerror}); leave the option out"
            ) from error

    def place_free(self, source: Path, target: Path) -> bool:
        """Make `target` a copy of `source` if that takes no room, and return whether it does."""
        if self.link:
            self.place(source, target)
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        return share_blocks(source, target)
