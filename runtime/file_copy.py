"""Copy files without copying blocks where the file system can share them. The source never changes.

A hard link would change the source: its link count rises, and from 1.23 on `onnx` refuses to read weights from a file
that has several names.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

FICLONE = 0x40049409
"""Linux's ioctl that makes one file share all blocks of another until either is written to (XFS, Btrfs, bcachefs)."""
_PIECE_BYTES = 1 << 30
"""Most bytes that one call of the kernel copies, since Ctrl-C has to wait for the end of the call."""
_BUFFER_BYTES = 128 << 10
"""Size of the copy buffer. Larger writes take longer for each byte (measured on Linux 6.18 with ext4)."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_OFFERED = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
"""Error numbers of kernels in which `copy_file_range` does not work between two file systems or inside a sandbox."""


def copy_file(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`, sharing its blocks where possible; missing folders are created.

    Raises:
        OSError: `source` cannot be read, or `target` cannot be written. No file is left at `target` then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_new(source, target, _share_or_append)


def share_blocks(source: Path, target: Path) -> bool:
    """Make `target` a copy of `source` that shares its blocks; without such support make none and return False."""
    shared = False

    def share(read: IO[bytes], write: IO[bytes]) -> None:
        nonlocal shared
        shared = _share(read, write)

    _write_new(source, target, share)
    if not shared:
        target.unlink()
    return shared


def hard_link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where links are not possible, before `source` is deleted."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        copy_file(source, target)


def symlink_to(source: Path, target: Path) -> None:
    """Make `target` a symbolic link to `source`, for temporary folders that are deleted before the source is."""
    target.unlink(missing_ok=True)
    target.symlink_to(source.resolve())


def append_range(read: IO[bytes], write: IO[bytes], offset: int, count: int) -> None:
    """Append `count` bytes of `read`, from `offset` on, to `write`: inside the kernel if possible, else by a buffer.

    Both files are opened without Python's own buffers.
    """
    done = 0
    try:
        while done < count and (copied := _copy_in_kernel(read, write, offset + done, count - done)):
            done += copied
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
    while done < count:
        data = os.pread(read.fileno(), min(count - done, _BUFFER_BYTES), offset + done)
        if not data:
            raise OSError(errno.EIO, f"{read.name} ended {count - done} bytes early")
        done += len(data)
        while data:
            data = data[os.write(write.fileno(), data) :]


def _write_new(source: Path, target: Path, fill: Callable[[IO[bytes], IO[bytes]], object]) -> None:
    """Replace `target` by a new file that `fill` writes; other hard links of an older file there keep its content."""
    with source.open("rb", buffering=0) as read:
        target.unlink(missing_ok=True)
        try:
            with target.open("xb", buffering=0) as write:
                fill(read, write)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(target)) from error


def _share(read: IO[bytes], write: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(write.fileno(), FICLONE, read.fileno())
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        return False
    return True


def _share_or_append(read: IO[bytes], write: IO[bytes]) -> None:
    if not _share(read, write):
        append_range(read, write, 0, os.fstat(read.fileno()).st_size)


def _copy_in_kernel(read: IO[bytes], write: IO[bytes], offset: int, count: int) -> int:
    return os.copy_file_range(read.fileno(), write.fileno(), min(count, _PIECE_BYTES), offset_src=offset)
