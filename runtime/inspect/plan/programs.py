"""Search for the texts of a plan's programs between its weights and binaries, without decoding the rest.

A program is written as ``header { ... } descriptors { ... } main { ... }``, after a mark, a version and its own length.
The format is undocumented (it was read from TensorRT-RTX 1.7.1), so the length is used only if it is plausible.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from internvl_edge.runtime.errors import EngineError

_MAGICS = (b"vtrt", b"ftrt")
"""First bytes of a plan of TensorRT-RTX and of TensorRT."""
_START = b"header {\n"
_LENGTH = struct.Struct("<4s4xQ")
_MARK = b"NLYM"
_LARGEST = 64 << 20
"""Largest size of one program's text; that of 48 blocks has 2 MB."""
_LAYER = b"[ONNX Layer: "


class PlanBytes:
    """A memory-mapped plan file, as a context manager; only the accessed parts are read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "PlanBytes":
        """Map the file.

        Raises:
            EngineError: The file cannot be read, or is no plan.
        """
        try:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise EngineError(f"{self.path}: cannot be read as a plan ({error}); name a .plan file") from error
        if self._map[:4] not in _MAGICS:
            self._map.close()
            raise EngineError(
                f"{self.path}: no TensorRT plan (it begins with {_shown(self.path)}); name a file that `build` wrote"
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Unmap the file."""
        self._map.close()

    @property
    def size(self) -> int:
        """Return the size of the file in bytes."""
        return len(self._map)

    def texts(self) -> Iterator[str]:
        """Yield the text of each program, in the order of the file."""
        at = self._map.find(_START)
        while at >= 0:
            end = self._end(at)
            yield self._map[at:end].decode("utf-8", errors="replace")
            at = self._map.find(_START, end)

    def layers(self) -> tuple[str, ...]:
        """Return the names of the source ONNX nodes, which are listed before the first program; each once, in order."""
        first = self._map.find(_START)
        end = first if first >= 0 else min(len(self._map), _LARGEST)
        head = self._map[max(0, end - _LARGEST) : end]
        names = (piece.split(b"]", 1)[0].decode("utf-8", errors="replace") for piece in head.split(_LAYER)[1:])
        return tuple(dict.fromkeys(names))

    def _end(self, at: int) -> int:
        """Return the end of the text that starts at `at`: by its own length, otherwise before the next program."""
        if at >= _LENGTH.size:
            mark, length = _LENGTH.unpack(self._map[at - _LENGTH.size : at])
            if mark == _MARK and len(_START) <= length <= min(_LARGEST, len(self._map) - at):
                return at + int(length)
        following = self._map.find(_START, at + 1, at + _LARGEST)
        return following if following >= 0 else min(len(self._map), at + _LARGEST)


def _shown(path: Path) -> str:
    with path.open("rb") as file:
        return repr(file.read(4))
