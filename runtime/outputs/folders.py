"""The folders that users name: links are followed and stay, and what is no folder is not replaced by one."""

import os
from pathlib import Path

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.outputs.files import STDOUT


def folder_at(output: Path) -> Path:
    """Return where the folder `output` lies or will lie, links followed, so that a rename replaces no link.

    Raises:
        InputError: something else stands there, it is the root, or links lead in a circle.
    """
    if output == STDOUT:
        raise InputError("-: a folder cannot go to the standard output; name one")
    target = Path(os.path.realpath(output))
    if not target.name:
        raise InputError(f"{output}: is the root of the file system; name a folder in it")
    try:
        if target.stat() and not target.is_dir():
            raise InputError(f"{output}: is there and no folder; name another")
    except (FileNotFoundError, NotADirectoryError):  # who makes it tells what is in the way
        return target
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); name another folder") from error
    return target
