"""Resolve folders that users name: links are followed and stay, and nothing but a folder is replaced."""

import os
from pathlib import Path

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.outputs.files import STDOUT


def folder_at(output: Path) -> Path:
    """Return the path of the folder `output` with links followed, so that a rename replaces no link.

    Raises:
        InputError: something other than a folder is there, it is the root, or links form a loop.
    """
    if output == STDOUT:
        raise InputError("-: a folder cannot go to the standard output; name one")
    target = Path(os.path.realpath(output))
    if not target.name:
        raise InputError(f"{output}: is the root of the file system; name a folder in it")
    try:
        if target.stat() and not target.is_dir():
            raise InputError(f"{output}: is there and no folder; name another")
    except (FileNotFoundError, NotADirectoryError):  # creating the folder reports the reason
        return target
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); name another folder") from error
    return target
