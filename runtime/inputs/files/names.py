"""Names of files, and what the system says of them, as text that every reader takes."""

import os
import re
import stat
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(name: "str | os.PathLike[str]") -> str:
    r"""Return a name as valid Unicode; of one that is no UTF-8, the bytes in question are written as ``\xe9``.

    Python holds such bytes as lone surrogates, which many readers of JSON, Parquet and terminals refuse.
    """
    text = os.fspath(name)
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair that no file name can hold
        content = text.encode("utf-8", "surrogatepass")
    return content.decode("utf-8", "backslashreplace")


def in_one_line(name: "str | os.PathLike[str]") -> str:
    r"""Return a name for a message: `printable`, its line breaks and control characters written as ``\n``, ``\x07``."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], printable(name))


def system_words(error: OSError) -> str | None:
    """Return what the system says of a file, without its name; None if the error is not the system's."""
    return os.strerror(error.errno).lower() if error.errno else None


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogate, so that it can be tokenized and written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_there(path: Path) -> bool:
    """Whether something can be found at `path`; of a name longer than names can be, False like of any other."""
    return _mode(path) is not None


def is_folder(path: Path) -> bool:
    """Whether a folder can be found at `path`, as `is_there`."""
    return stat.S_ISDIR(_mode(path) or 0)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a null byte
        return None
