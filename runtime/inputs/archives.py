"""Archives: members by name, read by any thread, opened again by another process."""

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol

from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.names import in_one_line, system_words
from internvl_edge.runtime.inputs.sniff import described, head_of, picture_format

_REOPENED = 4
"""Archives that a worker of a cluster keeps open."""
_LARGEST_BYTES = 1 << 30
"""Of one member: a picture of the pixel limit has 268 MB as it is, and what is packed may unpack to anything."""
_BROKEN = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError, NotImplementedError)


class Archive(Protocol):
    """Members by name."""

    path: Path

    def names(self) -> list[str]:
        """Return the names of all files, in the order of the archive."""
        ...

    def has(self, member: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def read(self, member: str) -> bytes:
        """Return the content of a file.

        Raises:
            UnreadableError: there is no such file, or it cannot be unpacked.
        """
        ...

    def stamp(self, member: str) -> tuple[int, int]:
        """Return what changes when the file does; zeros where it is not there."""
        ...


class ZipArchive:
    """A .zip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = zipfile.ZipFile(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process open it by its path."""
        return _reopened, (self.path,)

    def names(self) -> list[str]:
        """Return the names of all files."""
        return [info.filename for info in self._file.infolist() if not info.is_dir()]

    def has(self, member: str) -> bool:
        """Whether there is a file of this name."""
        return member in self._file.NameToInfo

    def read(self, member: str) -> bytes:
        """Return the content of a file.

        Raises:
            UnreadableError: there is no such file, or it cannot be unpacked.
        """
        info = self._file.NameToInfo.get(member)
        _require_member(info, 0 if info is None else info.file_size)
        if info is not None and info.flag_bits & 1:
            raise UnreadableError("encrypted in its archive; unpack it")
        try:
            return self._file.read(member)
        except _BROKEN as error:
            raise UnreadableError("broken in its archive") from error

    def stamp(self, member: str) -> tuple[int, int]:
        """Return its size and checksum."""
        info = self._file.NameToInfo.get(member)
        return (0, 0) if info is None else (info.file_size, info.CRC)


class TarArchive:
    """A .tar, also packed, which is unpacked to a temporary file once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _plain_tar(path)
        weakref.finalize(self, self._file.close)
        self._changed = path.stat().st_mtime_ns
        self._members: Mapping[str, tuple[int, int]] = {}
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            self._members = {
                member.name: (member.offset_data, member.size)
                for member in archive
                if member.isreg() and not member.issparse()
            }

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process open it by its path."""
        return _reopened, (self.path,)

    def names(self) -> list[str]:
        """Return the names of all files."""
        return list(self._members)

    def has(self, member: str) -> bool:
        """Whether there is a file of this name."""
        return member in self._members

    def read(self, member: str) -> bytes:
        """Return the content of a file.

        Raises:
            UnreadableError: there is no such file, or the archive ends in it.
        """
        found = self._members.get(member)
        _require_member(found, 0 if found is None else found[1])
        offset, size = found or (0, 0)
        content = os.pread(self._file.fileno(), size, offset)
        if len(content) < size:
            raise UnreadableError("cut off with its archive")
        return content

    def stamp(self, member: str) -> tuple[int, int]:
        """Return its size, and the time of the archive's last change."""
        found = self._members.get(member)
        return (0, 0) if found is None else (found[1], self._changed)


def open_archive(path: Path) -> Archive:
    """Return the archive at `path`, a .zip by its first bytes or else a tar.

    Raises:
        InputError: it cannot be read; says what the file is.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{in_one_line(path)}: no file; give a .zip or .tar")
        return ZipArchive(path) if head_of(path).startswith(b"PK") else TarArchive(path)
    except _BROKEN as error:
        raise InputError(f"{in_one_line(path)}: {_finding(path, error)}; give a whole .zip or .tar") from error


@lru_cache(maxsize=_REOPENED)
def _reopened(path: Path) -> Archive:
    return open_archive(path)


def _plain_tar(path: Path) -> IO[bytes]:
    """Return the open file of a tar, or of its unpacked content, which is gone when it is closed."""
    if not head_of(path).startswith(b"\x1f\x8b"):
        return path.open("rb")
    unpacked = tempfile.TemporaryFile(prefix="internvl-edge-")  # noqa: SIM115  stays open as long as its archive
    try:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except BaseException:
        unpacked.close()
        raise
    unpacked.seek(0)
    return unpacked


def _require_member(found: object, size: int) -> None:
    if found is None:
        raise UnreadableError("no such file in the archive")
    if size > _LARGEST_BYTES:
        raise UnreadableError(f"{size} bytes unpacked, more than {_LARGEST_BYTES}")


def _finding(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and (words := system_words(error)) is not None:
        return words
    try:
        head = head_of(path)
    except OSError:
        return "cannot be read"
    known = picture_format(head)
    found = described(head) if known is None else f"a {known} picture"
    archives = ("a zip archive", "a tar archive", "gzip data")
    return f"no archive but {found}" if found is not None and found not in archives else "a broken or cut-off archive"
