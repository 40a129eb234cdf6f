"""An output folder that is created completely or not at all, and copies of a bundle's files in it."""

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
    """Yield a temporary folder beside `output`; it is renamed to `output` on success, and removed on an error.

    Raises:
        InputError: `output` exists, or cannot be written.
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
    """A copier of a bundle's files; the bundle itself is never changed, not even its link counts."""

    link: bool = False
    """Whether the second and later copies of a file are hard links to the first."""
    _first: dict[Path, Path] = field(default_factory=dict)
    """Source -> its first copy."""

    def place(self, source: Path, target: Path) -> None:
        """Copy `source` to `target`, sharing blocks where the file system supports it.

        Raises:
            InputError: Hard links are wanted, and the file system has none.
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
        """Copy `source` to `target` if that needs no disk space, and return whether it was copied."""
        if self.link:
            self.place(source, target)
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        return share_blocks(source, target)
