"""The standard output when it cannot take what is printed: a full disk is one line, a reader that left is no error."""

import os
import sys


def prepare_streams() -> None:
    """Let stdout and stderr take every text: names that are no UTF-8 as their bytes, foreign characters as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            is_utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def drop_stdout() -> None:
    """After a failure, drop what stdout still holds, so that Python's own attempt at its end is silent.

    Its descriptor then leads nowhere, as Python's documentation advises for a reader that has left.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
