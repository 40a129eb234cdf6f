"""Pictures by name, read when their turn comes: files, members of archives, rows of Parquet, and what is none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from internvl_edge.runtime.errors import UnreadableError
from internvl_edge.runtime.inputs.files.archives import Archive
from internvl_edge.runtime.inputs.files.sniff import regular_file
from internvl_edge.runtime.inputs.pictures.arguments import Readable
from internvl_edge.runtime.inputs.pictures.findings import reason


class SourcePicture(Readable, Protocol):
    """A picture whose features can be taken from an earlier run, unless it has changed."""

    def stamp(self) -> tuple[int, int]:
        """Return what changes when the picture does; zeros where it is not there."""
        ...


def content_of(picture: SourcePicture) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        UnreadableError: they cannot be had; says why.
    """
    try:
        found = picture.content()
        return found if isinstance(found, bytes) else regular_file(Path(str(found))).read_bytes()
    except (OSError, MemoryError) as error:
        raise UnreadableError(reason(error)) from error
    except ValueError as error:  # a name that no file can have
        raise UnreadableError("no such file") from error


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture on disk."""

    path: Path

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    @property
    def name(self) -> str:
        """Return its path."""
        return str(self.path)

    def content(self) -> Path:
        """Return its path."""
        return self.path

    def stamp(self) -> tuple[int, int]:
        """Return its size and the time of its last change."""
        try:
            found = self.path.stat()
        except (OSError, ValueError):  # not there, or a name that no file can have
            return 0, 0
        return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class ArchivedPicture:
    """A picture in an archive, which several threads may read."""

    name: str
    archive: Archive
    member: str

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    def content(self) -> bytes:
        """Return its bytes.

        Raises:
            UnreadableError: the archive does not give it.
        """
        return self.archive.read(self.member)

    def stamp(self) -> tuple[int, int]:
        """Return what the archive says of it."""
        return self.archive.stamp(self.member)


@dataclass(frozen=True, slots=True)
class UnusablePicture:
    """A row that names no picture, where such rows are to be left out like pictures that cannot be read."""

    name: str
    why: str

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    def content(self) -> bytes:
        """Say why there is none.

        Raises:
            UnreadableError: always.
        """
        raise UnreadableError(self.why)

    def stamp(self) -> tuple[int, int]:
        """Return zeros: nothing is there."""
        return 0, 0
