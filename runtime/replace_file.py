"""Files that several processes may write at the same time: each is seen as it was, or whole as it is now."""

import secrets
from pathlib import Path


def temporary_beside(path: Path) -> Path:
    """Return a new name in the folder of `path`.

    It says nothing of the name of `path` itself, which may already be as long as a name can be.
    """
    return path.with_name(f".internvl-edge-{secrets.token_hex(8)}.tmp")


def replace_file(path: Path, content: "bytes | memoryview") -> None:
    """Write `content` to a file, whose folder is made; where that fails the file stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
