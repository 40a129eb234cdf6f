"""Bodies of requests, checked against the limits while they are read."""

import json
import zlib
from collections import Counter
from typing import Any

from starlette.requests import Request

from internvl_edge.runtime.serve.protocol.checks import quoted
from internvl_edge.runtime.serve.protocol.http.disconnect import ClientDisconnectedError
from internvl_edge.runtime.serve.refusals import RETRY_S, BadRequestError, OverloadedError, TooLargeError

_WINDOWS = {"gzip": 31, "deflate": zlib.MAX_WBITS}
"""Content coding -> zlib's `wbits` for its format."""
_BROKEN = "the compressed body is broken"


class Buffers:
    """The memory that all bodies use together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, count: int) -> None:
        """Reserve memory before it is used.

        Raises:
            OverloadedError: The limit would be exceeded.
        """
        if self.held + count > self.limit:
            raise OverloadedError("the server holds as many bytes of requests as it may; try again", RETRY_S)
        self.held += count


class Body:
    """One request's body and the memory that it uses; call `release` when the request has ended."""

    def __init__(self, request: Request, limit: int, buffers: Buffers) -> None:
        self._request = request
        self._limit = limit
        self._buffers = buffers
        self._held = 0

    async def read(self) -> bytes:
        """Return the whole body, decompressed.

        Raises:
            TooLargeError: It exceeds the limit.
            OverloadedError: The bodies of other requests use all the memory.
            BadRequestError: Its content coding is not known, or its data is broken.
            ClientDisconnectedError: The client has disconnected.
        """
        coding = self._request.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", *_WINDOWS):
            raise BadRequestError(f"content coding {coding[:40]!r} is not known; send gzip, deflate or none")
        if self._declared() > self._limit:
            raise self._too_large()
        raw = await self._received()
        return raw if coding == "identity" else self._decompressed(raw, _WINDOWS[coding])

    def release(self) -> None:
        """Release the memory."""
        self._buffers.held -= self._held
        self._held = 0

    def _declared(self) -> int:
        length = self._request.headers.get("content-length", "0")
        return int(length) if length.isascii() and length.isdigit() else 0

    async def _received(self) -> bytes:
        parts, more = [], True
        while more:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
            self._hold(len(parts[-1]))
            if self._held > self._limit:
                raise self._too_large()
        return b"".join(parts) if len(parts) > 1 else parts[0]

    def _decompressed(self, raw: bytes, window: int) -> bytes:
        stream = zlib.decompressobj(window)
        try:
            whole = stream.decompress(raw, self._limit + 1)
        except zlib.error as error:
            raise BadRequestError(_BROKEN) from error
        if len(whole) > self._limit:
            raise self._too_large()
        if not stream.eof or stream.unused_data:
            raise BadRequestError(_BROKEN)
        self._hold(len(whole))
        return whole

    def _hold(self, count: int) -> None:
        self._buffers.take(count)
        self._held += count

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body is larger than {self._limit} bytes; send less at once")


def json_object(raw: "bytes | memoryview", limit: int) -> dict[str, Any]:
    """Return the JSON object of the bytes `raw`.

    Raises:
        TooLargeError: It exceeds the limit.
        BadRequestError: It is no valid JSON, or no object.
    """
    if len(raw) > limit:
        raise TooLargeError(f"the JSON is larger than {limit} bytes; send tensors as binary data")
    try:
        content = json.loads(bytes(raw), parse_constant=_no_number, object_pairs_hook=_unique)
    except RecursionError as error:
        raise BadRequestError("the JSON is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise BadRequestError("the JSON is not UTF-8") from error
    except ValueError as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadRequestError("the body is a JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names are unique: of two values of one name, one would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise BadRequestError(f"the JSON has {', '.join(map(quoted, twice))} twice in one object")
    return content


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")
