"""Convert names of files, and messages of the system about them, to text that every reader can decode."""

import os
import re
import stat
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(name: "str | os.PathLike[str]") -> str:
    r"""Return a name as valid Unicode, in which bytes that are no UTF-8 are written as ``\xe9``.

    Python holds such bytes as lone surrogates, which terminals and many readers of JSON and Parquet refuse.
    """
    text = os.fspath(name)
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        content = text.encode("utf-8", "surrogatepass")
    return content.decode("utf-8", "backslashreplace")


def in_one_line(name: "str | os.PathLike[str]") -> str:
    r"""Return a name for a message: `printable`, its line breaks and control characters written as ``\n``, ``\x07``."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], printable(name))


def system_words(error: OSError) -> str | None:
    """Return the system's message about a file without the file's name; None for errors that have none."""
    return os.strerror(error.errno).lower() if error.errno else None


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogate, so that it can be tokenized and written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_there(path: Path) -> bool:
    """Return whether something exists at `path`; False for names that no file can have, such as too long ones."""
    return _mode(path) is not None


def is_folder(path: Path) -> bool:
    """Return whether a folder exists at `path`; False for names that no file can have."""
    return stat.S_ISDIR(_mode(path) or 0)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: the name has a null byte
        return None
