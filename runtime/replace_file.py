"""Replace files that several processes may write at the same time: readers see the old content or the whole new one."""

import secrets
from pathlib import Path


def temporary_beside(path: Path) -> Path:
    """Return the path of a file that does not exist yet in the folder of `path`.

    Its name does not contain the name of `path`, which may already have the maximum length.
    """
    return path.with_name(f".internvl-edge-{secrets.token_hex(8)}.tmp")


def replace_file(path: Path, content: "bytes | memoryview") -> None:
    """Replace the content of a file, creating its folder; if that fails the file stays as it was.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
