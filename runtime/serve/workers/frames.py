"""Messages over a stream socket: a pickle, followed by the memory of its arrays (pickle protocol 5, out of band).

A frame is its length, then the number of parts and the length of each, then the parts: the pickle and its buffers. Each
part starts at a multiple of 16 bytes, so that received arrays are aligned and no side copies them. Pickles go only
between a server and the processes that it started, over an unnamed socket pair.
"""

import pickle
import struct
from typing import Any

import numpy as np

_LENGTH = struct.Struct("=Q")
_COUNT = struct.Struct("=Q")
_ALIGNMENT = 16
_SMALL_BYTES = 64 << 10
"""Largest frame that is joined to one piece: up to this size a copy costs less than another system call."""


def frame(message: object) -> list[bytes | memoryview]:
    """Return the pieces of a message's frame, to be sent one after the other."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts: list[bytes | memoryview] = [pickled, *(buffer.raw() for buffer in buffers)]
    table = _COUNT.pack(len(parts)) + b"".join(_LENGTH.pack(len(part)) for part in parts)
    pieces: list[bytes | memoryview] = [table, _padding(len(table))]
    for part in parts:
        pieces += [part, _padding(len(part))]
    total = sum(map(len, pieces))
    pieces.insert(0, _LENGTH.pack(total))
    return [b"".join(pieces)] if total <= _SMALL_BYTES else pieces


class FrameReader:
    """The receiving side of frames: write bytes into `space()`, then call `received` with their number."""

    def __init__(self) -> None:
        self._length = memoryview(bytearray(_LENGTH.size))
        self._target = self._length
        self._filled = 0

    def space(self) -> memoryview:
        """Return the buffer for the next bytes."""
        return self._target[self._filled :]

    def received(self, count: int) -> list[Any]:
        """Return the message that these bytes complete, in a list; an empty list while it is incomplete."""
        self._filled += count
        if self._filled < len(self._target):
            return []
        whole, self._filled = self._target, 0
        if whole is self._length:
            (total,) = _LENGTH.unpack(whole)
            self._target = np.empty(total, np.uint8).data
            return []
        self._target = self._length
        return [_message(whole)]


def _message(content: memoryview) -> Any:
    (count,) = _COUNT.unpack_from(content)
    table = _COUNT.size + count * _LENGTH.size
    lengths = [_LENGTH.unpack_from(content, _COUNT.size + index * _LENGTH.size)[0] for index in range(count)]
    parts, start = [], _aligned(table)
    for length in lengths:
        parts.append(content[start : start + length])
        start += _aligned(length)
    return pickle.loads(parts[0], buffers=parts[1:])


def _aligned(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _padding(length: int) -> bytes:
    return bytes(_aligned(length) - length)
