"""Read members of archives by name, in any thread; another process opens a pickled archive again."""

import gzip
import os
import posixpath
import stat
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from internvl_edge.runtime.errors import InputError, UnreadableError
from internvl_edge.runtime.inputs.files.names import in_one_line, system_words
from internvl_edge.runtime.inputs.files.sniff import described, head_of, picture_format

_DAMAGED = "broken in its archive"
_KEPT = 4
"""Number of archives that are kept open, or unpacked, at once."""
_GZIP = b"\x1f\x8b"
_ABSENT = "no such file in the archive"
_LEADS_OUT = "a link to what is not in the archive"
_NO_WHOLE_FILE = "not held as a whole file in its archive"
_LINKS = 40
"""Number of links that are followed before a chain counts as a loop, as in the Linux kernel."""
_LARGEST_BYTES = 1 << 30
"""Most bytes of one member. An uncompressed picture at the pixel limit has 268 MB; compressed data has no bound."""
_PART_BYTES = 4 << 20
_ANY_BYTES, _MOST_TIMES = 256 << 20, 200
"""Bytes that any gzip file may unpack to, and the most for each of its bytes: captions have 3 to 10, pictures 1, zeros
1,000."""
_BROKEN = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError, NotImplementedError)


class Archive(ABC):
    """An archive with an index of its members by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = path.stat().st_mtime_ns

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the archive as its path, by which another process opens it again."""
        return _reopened, (self.path,)

    @property
    @abstractmethod
    def _index(self) -> Mapping[str, object]:
        """Return the members by name, in the order of the archive."""

    def names(self) -> list[str]:
        """Return the names of all files, in the order of the archive."""
        return list(self._index)

    def has(self, member: str) -> bool:
        """Return whether there is a file of this name."""
        return member in self._index

    @abstractmethod
    def read(self, member: str) -> bytes:
        """Return the content of a file.

        Raises:
            UnreadableError: there is no such file, or it cannot be unpacked.
        """

    @abstractmethod
    def stamp(self, member: str) -> tuple[int, int]:
        """Return two numbers that change when the file does; zeros where there is none."""


class ZipArchive(Archive):
    """A .zip archive. However many archives there are, only `_KEPT` files are open at once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with zipfile.ZipFile(path) as file:
            self._members = {info.filename: info for info in file.infolist() if not info.is_dir()}

    @property
    def _index(self) -> Mapping[str, object]:
        return self._members

    def read(self, member: str) -> bytes:
        """Return the content of a file.

        Raises:
            UnreadableError: there is no such file, or it cannot be unpacked.
        """
        info = self._members.get(member)
        if info is None:
            raise UnreadableError(_ABSENT)
        _require_size(info.file_size)
        if info.flag_bits & 1:
            raise UnreadableError("encrypted in its archive; unpack it")
        try:
            return _open_zip(self.path, self._changed).read(member)
        except (*_BROKEN, KeyError) as error:  # KeyError: the archive was replaced by another
            raise UnreadableError(_DAMAGED) from error

    def stamp(self, member: str) -> tuple[int, int]:
        """Return its size and checksum."""
        info = self._members.get(member)
        return (0, 0) if info is None else (info.file_size, info.CRC)


class TarArchive(Archive):
    """A .tar archive. One that is compressed with gzip is unpacked to a temporary file while it is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._packed = head_of(path).startswith(_GZIP)
        with self._opened() as file:
            file.seek(0)
            archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  nothing of its own is open
            self._members = _tar_index(archive)
            _require_end(archive, file)

    @property
    def _index(self) -> Mapping[str, object]:
        return self._members

    def read(self, member: str) -> bytes:
        """Return the content of a file.

        Raises:
            UnreadableError: there is no such file, or the archive ends in it.
        """
        if member not in self._members:
            raise UnreadableError(_ABSENT)
        found = self._members[member]
        if isinstance(found, str):
            raise UnreadableError(found)
        offset, size = found
        _require_size(size)
        try:
            with self._opened() as file:
                content = os.pread(file.fileno(), size, offset)
        except _BROKEN as error:
            raise UnreadableError(_DAMAGED) from error
        if len(content) < size:
            raise UnreadableError("cut off with its archive")
        return content

    def stamp(self, member: str) -> tuple[int, int]:
        """Return its size, and the time of the archive's last change."""
        found = self._members.get(member)
        return (0, 0) if found is None or isinstance(found, str) else (found[1], self._changed)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """Return a context with the plain tar file: the archive itself, or its unpacked content."""
        if self._packed:
            unpacked = _unpacked(self.path, self._changed)
            yield unpacked.file
            return
        with self.path.open("rb") as file:
            yield file


def _tar_index(archive: tarfile.TarFile) -> dict[str, tuple[int, int] | str]:
    """Return offset and size of every file, following links inside the archive, or the reason why it cannot be read."""
    found: dict[str, tuple[int, int] | str] = {}
    links: dict[str, str] = {}
    for member in archive:
        links.pop(member.name, None)  # the last of several members of one name counts
        found.pop(member.name, None)
        if member.issym():
            links[member.name] = posixpath.join(posixpath.dirname(member.name), member.linkname)
        elif member.islnk():
            links[member.name] = member.linkname
        elif not member.isdir():
            whole = member.isreg() and not member.issparse()
            found[member.name] = (member.offset_data, member.size) if whole else _NO_WHOLE_FILE
        if member.name in links:
            found[member.name] = _LEADS_OUT  # keeps its place in the order
    by_path = {posixpath.normpath(name): name for name in found}
    for name in links:
        target: str | None = name
        for _ in range(_LINKS):
            if target not in links:
                break
            target = by_path.get(posixpath.normpath(links[target]))
        found[name] = found[target] if target is not None and target not in links else _LEADS_OUT
    return found


def _require_end(archive: tarfile.TarFile, file: IO[bytes]) -> None:
    """Check that an archive that was read to its end is complete, since tarfile takes any broken header for the end.

    Raises:
        TarError: something other than the end of the file or a block of zeros follows the last member.
    """
    members = archive.getmembers()
    if not members or members[-1].issparse():  # tarfile does not report the stored size of a sparse file
        return
    last, position = members[-1], file.tell()
    end = last.offset_data + (-(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE if last.isreg() else 0)
    file.seek(end)
    if position != end and file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("a broken header")


def open_archive(path: Path) -> Archive:
    """Return the archive at `path`: a .zip if its first bytes are those of one, else a tar.

    Raises:
        InputError: the archive cannot be read. The message says what the file is.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{in_one_line(path)}: no file; give a .zip or .tar")
        return ZipArchive(path) if head_of(path).startswith(b"PK") else TarArchive(path)
    except UnreadableError as error:
        raise InputError(f"{in_one_line(path)}: {error}; give it unpacked") from error
    except _BROKEN as error:
        raise InputError(f"{in_one_line(path)}: {_finding(path, error)}; give a whole .zip or .tar") from error


@lru_cache(maxsize=_KEPT)
def _reopened(path: Path) -> Archive:
    return open_archive(path)


@lru_cache(maxsize=_KEPT)
def _open_zip(path: Path, changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


class _Unpacked:
    """The content of a gzip file in a temporary file, which is deleted with this object."""

    def __init__(self, path: Path) -> None:
        self.file = tempfile.TemporaryFile(prefix="internvl-edge-")  # noqa: SIM115  closed with this object
        weakref.finalize(self, self.file.close)
        with path.open("rb") as packed:
            for part in unpacked_parts(packed):
                self.file.write(part)
        self.file.seek(0)


def unpacked_parts(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the unpacked content of a gzip file, part by part.

    Raises:
        UnreadableError: the content is larger than pictures or texts can be in a file of this size.
    """
    total = 0
    with gzip.GzipFile(fileobj=file) as packed:
        while part := packed.read(_PART_BYTES):
            total += len(part)
            if file.seekable() and total > max(_ANY_BYTES, _MOST_TIMES * file.tell()):
                raise UnreadableError(f"unpacks to more than {_MOST_TIMES} times its size")
            yield part


@lru_cache(maxsize=_KEPT)
def _unpacked(path: Path, changed: int) -> _Unpacked:
    return _Unpacked(path)


def _require_size(size: int) -> None:
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
