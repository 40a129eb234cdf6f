"""Pictures that are read when they are needed: files, members of archives, and rows without a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from internvl_edge.runtime.errors import UnreadableError
from internvl_edge.runtime.inputs.files.archives import Archive
from internvl_edge.runtime.inputs.files.sniff import regular_file
from internvl_edge.runtime.inputs.pictures.arguments import Readable
from internvl_edge.runtime.inputs.pictures.findings import reason


class SourcePicture(Readable, Protocol):
    """A picture whose features can be taken from an earlier run if its stamp is the same."""

    def stamp(self) -> tuple[int, int]:
        """Return two numbers that change when the picture does; zeros where it does not exist."""
        ...


def content_of(picture: SourcePicture) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        UnreadableError: the bytes cannot be read; the message gives the reason.
    """
    try:
        found = picture.content()
        return found if isinstance(found, bytes) else regular_file(Path(str(found))).read_bytes()
    except (OSError, MemoryError) as error:
        raise UnreadableError(reason(error)) from error
    except ValueError as error:  # no file can have such a name
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
        except (OSError, ValueError):  # the file does not exist, or no file can have such a name
            return 0, 0
        return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class ArchivedPicture:
    """A picture in an archive. Several threads may read it."""

    name: str
    archive: Archive
    member: str

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    def content(self) -> bytes:
        """Return its bytes.

        Raises:
            UnreadableError: the member cannot be read.
        """
        return self.archive.read(self.member)

    def stamp(self) -> tuple[int, int]:
        """Return the stamp of the member in the archive."""
        return self.archive.stamp(self.member)


@dataclass(frozen=True, slots=True)
class UnusablePicture:
    """A row that names no picture, kept so that it is reported like a picture that cannot be read."""

    name: str
    why: str

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    def content(self) -> bytes:
        """Raise the reason why there is no picture.

        Raises:
            UnreadableError: always.
        """
        raise UnreadableError(self.why)

    def stamp(self) -> tuple[int, int]:
        """Return zeros, since there is no picture."""
        return 0, 0
