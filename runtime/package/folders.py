"""Folders that appear whole or not at all, and files that are linked rather than copied."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from internvl_edge.runtime.errors import InputError


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give a folder beside `output` to write into; it gets that name when the block ends well, and is removed if not.

    Raises:
        InputError: `output` is there already, or cannot be written.
    """
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


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, a copy where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
