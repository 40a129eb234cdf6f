"""Handle a standard output that cannot be written to: a full disk is an error in one line, a closed pipe is none."""

import os
import sys


def prepare_streams() -> None:
    """Make stdout and stderr accept every text: bytes that are no UTF-8 stay, unencodable characters become escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            is_utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def drop_stdout() -> None:
    """Discard what stdout still buffers after a failure, so that Python does not fail again at its end.

    The descriptor is redirected to /dev/null, as Python's documentation advises for closed pipes.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
