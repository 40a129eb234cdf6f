"""Admission control: a request without room in the queue is refused by its head; the others start a few at a time.

At twice the load that can be served, half of all requests are refused. Refusals and answers share one event loop, so a
refusal has to be cheap: it is sent before the request is parsed any further. The loop reads no connection while it
works: if all requests that came together started in one iteration, refusals would wait for them.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from internvl_edge.runtime.serve.protocol.http.cors import CrossOrigin, Line
from internvl_edge.runtime.serve.protocol.http.document.operations import INFERENCE_SUFFIXES, MODELS, OPERATIONS
from internvl_edge.runtime.serve.protocol.http.responses import refusal_response
from internvl_edge.runtime.serve.protocol.service import Service, refusal_of
from internvl_edge.runtime.serve.refusals import OverloadedError, RefusalError

_STARTS_PER_ITERATION = 8
"""Requests that start in one iteration of the event loop: while they are parsed and queued, no connection is read."""
Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that the engine may have room for."""

    client: str
    queued: bool
    """Whether the request needs a place in the queue; False where the cache may hold its answer."""


class DeferredStart:
    """The wait of one request from its head until it starts."""

    def __init__(self) -> None:
        self._came = time.monotonic()
        self._begins: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Start the request, unless it was cancelled meanwhile."""
        if not self._begins.done():
            self._begins.set_result(None)

    async def wait(self) -> float:
        """Wait until the request starts, and return the seconds of the wait."""
        await self._begins
        return time.monotonic() - self._came


class RejectedError(Exception):
    """A request is refused; `answer` holds the rest of its response after status line and the server's own headers."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("refused by admission control")
        self.answer = answer


class AdmissionControl:
    """The admission control before one engine."""

    def __init__(self, service: Service, cross_origin: CrossOrigin | None = None) -> None:
        self._service = service
        self._cross_origin = cross_origin or CrossOrigin()
        self._coming: Counter[str] = Counter()
        """Client -> number of its admitted requests that are not queued yet."""
        self._begun: list[Admitted] = []
        """Requests that started in this iteration of the event loop."""
        self._waiting: deque[tuple[Admitted, Callable[[], None]]] = deque()
        """Requests that start in later iterations, each with the function that starts it."""

    def admit(self, method: bytes, path: str, address: str, headers: Sequence[Header]) -> Admitted | None:
        """Return the admitted request; None for requests that are not for inference, or lack a valid key.

        Raises:
            RejectedError: The queue is full.
        """
        model = _model(method, path)
        if model not in self._service.engine.signatures:
            return None
        try:
            client = self._client(address, headers)
            queued = self._service.engine.require_room(model, client, self._coming)
        except OverloadedError as refusal:
            trace = next((value.decode("latin-1") for name, value in headers if name == b"traceparent"), None)
            with self._service.exchange("http", f"{method.decode()} {path}", address, trace) as exchange:
                exchange.client, exchange.model, exchange.status = client, model, str(refusal.http)
                refusal_of(refusal, exchange)
            origin = next((value.decode("latin-1") for name, value in headers if name == b"origin"), None)
            lines = self._cross_origin.lines(origin)
            raise RejectedError(_answer(str(refusal), ceil(refusal.retry_after_s or 0), path, lines)) from None
        except RefusalError:  # a missing or unknown key: the application answers it
            return None
        return Admitted(client, queued)

    def begin(self, admitted: Admitted, start: Callable[[], None]) -> None:
        """Start an admitted request, now or in a later iteration of the event loop."""
        self._coming[admitted.client] += admitted.queued
        if not (self._begun or self._waiting):
            asyncio.get_running_loop().call_soon(self._start_next)
        if len(self._begun) < _STARTS_PER_ITERATION and not self._waiting:
            self._begun.append(admitted)
            start()
        else:
            self._waiting.append((admitted, start))

    def _start_next(self) -> None:
        """Count the started requests as queued, and start the next ones."""
        self._coming -= Counter(admitted.client for admitted in self._begun if admitted.queued)
        self._begun.clear()
        while self._waiting and len(self._begun) < _STARTS_PER_ITERATION:
            admitted, start = self._waiting.popleft()
            self._begun.append(admitted)
            start()
        if self._begun:
            asyncio.get_running_loop().call_soon(self._start_next)

    def _client(self, address: str, headers: Sequence[Header]) -> str:
        if not self._service.credentials.wanted:
            return address
        given = {name: value.decode("latin-1") for name, value in reversed(headers)}  # the first of equal names is used
        return self._service.credentials.client(given.get(b"authorization", ""), given.get(b"x-api-key", ""), address)


def _model(method: bytes, path: str) -> str:
    """Return the model of a request for inference; an empty string for other requests."""
    if method != b"POST":
        return ""
    if path.startswith(MODELS) and path.endswith(INFERENCE_SUFFIXES):
        return path[len(MODELS) :].split("/", 1)[0]
    operation = OPERATIONS.get(("POST", path))
    return operation.model if operation is not None else ""


@lru_cache(maxsize=64)
def _answer(sentence: str, retry_after_s: int, path: str, more: tuple[Line, ...]) -> bytes:
    """Return headers, with `more` of them, and body; cached, since they repeat while the queue is full."""
    answer = refusal_response(OverloadedError(sentence, retry_after_s), path)
    lines = b"".join(b"%b: %b\r\n" % header for header in (*answer.raw_headers, *more))
    return b"%b\r\n%b" % (lines, bytes(answer.body))
