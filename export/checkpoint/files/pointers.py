"""Detect Git LFS pointers, which a clone without Git LFS has in place of large files."""

from pathlib import Path

from internvl_edge.runtime.errors import CheckpointError

_POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path) -> None:
    """Raise an error if a file cannot be read or is a Git LFS pointer.

    Raises:
        CheckpointError: the file cannot be read, or is a pointer.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if start == _POINTER:
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the weights; run git lfs pull")
