"""Messages over a stream socket: a pickle, with the arrays' own memory behind it instead of in it.

A frame is its length, then the number of parts and the length of each, then the parts: the pickle and its buffers, each
at a multiple of 16 bytes, so that arrays are aligned where they are received and nothing is copied on either side.
Pickles are exchanged between a server and the processes that it started, over a socket that has no name.
"""

import pickle
import struct
from typing import Any

import numpy as np

_LENGTH = struct.Struct("=Q")
_COUNT = struct.Struct("=Q")
_ALIGNMENT = 16
_SMALL_BYTES = 64 << 10
"""Frames up to this size are sent as one piece: a copy costs less than another call."""


def frame(message: object) -> list[bytes | memoryview]:
    """Return the pieces of a frame, to be sent one behind the other."""
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
    """Puts frames together: fill `space()`, say how much with `received`, and take the message if there is one."""

    def __init__(self) -> None:
        self._length = memoryview(bytearray(_LENGTH.size))
        self._target = self._length
        self._filled = 0

    def space(self) -> memoryview:
        """Return where the next bytes belong."""
        return self._target[self._filled :]

    def received(self, count: int) -> list[Any]:
        """Return the message that these bytes complete, in a list; none while it is under way."""
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
