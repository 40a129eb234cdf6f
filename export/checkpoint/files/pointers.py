"""Tell apart what a clone without Git LFS leaves in place of a file."""

from pathlib import Path

from internvl_edge.runtime.errors import CheckpointError

_POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path) -> None:
    """Check that a file can be read and is no Git LFS pointer.

    Raises:
        CheckpointError: it cannot be read, or is a pointer.
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
