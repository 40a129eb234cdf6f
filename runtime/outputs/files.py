"""Write files that users name: regular files are renamed into place when complete, others are written directly."""

import contextlib
import fcntl
import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.replace_file import temporary_beside

STDOUT = Path("-")
"""Name that stands for the standard output."""
_NO_FOLDER, _A_FOLDER = "its folder is not there", "is a folder"
_ANOTHER = "give another name"
_REMEDIES = {_NO_FOLDER: "make it first", _A_FOLDER: "give the name of a file"}
_LINKS = 40
"""Number of links that are followed before a chain counts as a loop, as in the Linux kernel."""


@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """Return a context with a binary file for output, whose content is at `path` when the block ends without an error.

    A regular or missing file is replaced by a rename, so that a failed or interrupted block leaves the old one. The
    new file keeps the permissions of the old one. Symbolic links are followed and stay. Pipes, devices, descriptors
    such as /dev/stdout, and files that cannot be replaced (a file mounted into a container) are written to directly.
    ``-`` is the standard output.

    Raises:
        InputError: the file cannot be written.
        BrokenPipeError: the reader of the standard output has closed it.
    """
    descriptor = 1 if path == STDOUT else _descriptor(path)
    try:
        if descriptor is not None:
            with _to_descriptor(descriptor) as file:
                yield file
        else:
            with _to_target(path) as file:
                yield file
    except OSError as error:
        if descriptor == 1 and isinstance(error, BrokenPipeError):
            raise
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); make room or give another name"
        ) from error


def write_text(path: Path, text: str) -> Path:
    """Write `text` in UTF-8 to `path` as `output_file` does, with its line ends unchanged, and return `path`.

    Bytes of file names that are no UTF-8 are written as they are.

    Raises:
        InputError: the file cannot be written.
    """
    with output_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    return path


def require_writable(paths: Iterable[Path]) -> None:
    """Check that files can be written at `paths`, before anything is computed.

    Raises:
        InputError: some cannot be written, all of them named.
    """
    given = list(paths)
    found = {path: finding for path in given if (finding := _finding(path))}
    wrong = [f"{path}: {finding}" for path, finding in found.items()]
    targets = [_target(path) for path in given if not is_stream(path)]
    wrong += [f"{target}: named twice" for target in sorted({each for each in targets if targets.count(each) > 1})]
    if wrong:
        remedies = dict.fromkeys(_REMEDIES.get(finding, _ANOTHER) for finding in found.values()) or {_ANOTHER: None}
        raise InputError(f"{'; '.join(wrong)}; {', or '.join(remedies)}")


def require_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that no output is one of the inputs, which would be overwritten.

    Raises:
        InputError: some are, all of them named.
    """
    read = set(map(_target, inputs))
    if both := [str(path) for path in outputs if not is_stream(path) and _target(path) in read]:
        raise InputError(f"{', '.join(both)}: would replace what is read; give another name")


def is_stream(path: Path) -> bool:
    """Return whether `path` is written to directly: the standard output, a pipe or a device."""
    return path == STDOUT or _descriptor(path) is not None or _is_other_than_file(_target(path))


def takes_stdout(paths: Iterable[Path]) -> bool:
    """Return whether one of `paths` is the standard output, so that other text has to be printed elsewhere."""
    return any(path == STDOUT or _descriptor(path) == 1 for path in paths)


def _finding(path: Path) -> str | None:
    """Return the reason why no file can be written at `path`, or None."""
    if path == STDOUT:
        return None
    if (descriptor := _descriptor(path)) is not None:
        return _fault_of(descriptor)
    target = _target(path)
    if not target.parent.is_dir():
        return _NO_FOLDER
    try:
        mode = _mode(target)
    except OSError as error:
        return error.strerror or str(error)
    if mode is not None:
        return _A_FOLDER if stat.S_ISDIR(mode) else None if os.access(target, os.W_OK) else "may not be written"
    return None if os.access(target.parent, os.W_OK | os.X_OK) else f"its folder {target.parent} may not be written"


def _fault_of(descriptor: int) -> str | None:
    """Return the reason why nothing can be written to an open file of this process, or None."""
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    except OSError:
        return "no such file is open"
    return "is open for reading alone" if flags & os.O_ACCMODE == os.O_RDONLY else None


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that `path` names, as /dev/stdout does, or None.

    Such a file is written to through its descriptor, since opening it by name again would begin at its start.
    """
    own = f"/proc/{os.getpid()}/fd"
    for _ in range(_LINKS):
        path = path.absolute()
        if path.name.isdigit() and os.path.realpath(path.parent) in (own, "/dev/fd"):
            return int(path.name)
        try:
            path = path.parent / path.readlink()
        except OSError:
            return None
    return None


def _target(path: Path) -> Path:
    """Return the path that `path` leads to through links; no file need exist there."""
    return Path(os.path.realpath(path))


@contextmanager
def _to_descriptor(descriptor: int) -> Iterator[IO[bytes]]:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # text that was printed earlier comes first
            stream.flush()
    if descriptor == 1 and sys.stdout is not None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    with os.fdopen(os.dup(descriptor), "wb") as file:
        yield file


@contextmanager
def _to_target(path: Path) -> Iterator[IO[bytes]]:
    target = _target(path)
    mode = _mode(target)
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(0, "it is a folder")
    if _is_other_than_file(target):
        with io.BufferedWriter(_Stream(os.open(target, os.O_WRONLY), "wb")) as stream:
            yield stream
        return
    if _is_fixed(target):
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_TRUNC), "wb") as file:  # O_CREAT: not in a folder like /tmp
            yield file
        return
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(0, "Permission denied")
    temporary = temporary_beside(target)
    try:
        with temporary.open("xb") as file:
            _take_permissions(file.fileno(), target)
            yield file
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


class _Stream(io.FileIO):
    """A pipe or a device, which has no position. /dev/null claims to have one, which is always 0."""

    def seekable(self) -> bool:
        """Return False."""
        return False

    def tell(self) -> int:
        """Refuse, since there is no position.

        Raises:
            UnsupportedOperation: always.
        """
        raise io.UnsupportedOperation("a stream has no places")


def _mode(target: Path) -> int | None:
    """Return the mode of the file at `target`, or None."""
    try:
        return target.stat().st_mode
    except FileNotFoundError:
        return None


def _is_other_than_file(target: Path) -> bool:
    """Return whether there is a pipe, a device or a socket at `target`."""
    try:
        mode = _mode(target)
    except OSError:  # the error is reported when the file is written
        return False
    return mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _is_fixed(target: Path) -> bool:
    """Return whether there is a regular file at `target` that can be written to but not replaced."""
    if not target.exists() or not os.access(target, os.W_OK):
        return False
    return target.is_mount() or not os.access(target.parent, os.W_OK | os.X_OK)


def _take_permissions(descriptor: int, target: Path) -> None:
    """Give an open file the permissions of `target`, and its owner and group where this process may set them."""
    try:
        old = target.stat()
    except FileNotFoundError:
        return
    own = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (own.st_uid, own.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)
