"""The admission: requests without room are refused by their heads, the others begin a few at a time.

When twice as much is asked as can be answered, half of all requests are refused. What a refusal costs is taken from the
answers, on the one event loop that does both, so it is said before anything is made of a request. And a turn of the
loop reads nothing while it works: were all that came begun at once, refusals would wait for it.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from internvl_edge.runtime.serve.protocol.http.cors import CrossOrigin, Line
from internvl_edge.runtime.serve.protocol.http.document.operations import INFERENCE_SUFFIXES, MODELS
from internvl_edge.runtime.serve.protocol.http.responses import refusal_response
from internvl_edge.runtime.serve.protocol.service import Service, refusal_of
from internvl_edge.runtime.serve.refusals import OverloadedError, RefusalError

_STARTS_PER_ITERATION = 8
"""Requests that begin in one turn: as long as they are parsed and queued, nobody else is read."""
Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who asks for an answer that the engine may have room for."""

    client: str
    queued: bool
    """The request takes room; false where the answer may be known."""


class DeferredStart:
    """The wait of one request, from its head until it begins."""

    def __init__(self) -> None:
        self._came = time.monotonic()
        self._begins: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Let the request begin, unless it was given up meanwhile."""
        if not self._begins.done():
            self._begins.set_result(None)

    async def wait(self) -> float:
        """Wait until the request begins, and return how long that took."""
        await self._begins
        return time.monotonic() - self._came


class RejectedError(Exception):
    """A request is refused; `answer` is what its client is sent behind the first line and the server's own headers."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("refused at the admission")
        self.answer = answer


class AdmissionControl:
    """Stands before one engine."""

    def __init__(self, service: Service, cross_origin: CrossOrigin | None = None) -> None:
        self._service = service
        self._cross_origin = cross_origin or CrossOrigin()
        self._coming: Counter[str] = Counter()
        """Clients -> requests that are to begin or began in this turn, and will be queued if their bodies are there."""
        self._begun: list[Admitted] = []
        """Those that began in this turn."""
        self._waiting: deque[tuple[Admitted, Callable[[], None]]] = deque()
        """Those that will, and how."""

    def admit(self, method: bytes, path: str, address: str, headers: Sequence[Header]) -> Admitted | None:
        """Return who sends a request for an answer; None for all else, which the head does not decide.

        Raises:
            RejectedError: there is no room for it.
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
            raise RejectedError(_answer(str(refusal), ceil(refusal.retry_after_s or 0), lines)) from None
        except RefusalError:  # of the key: an answer for who has time
            return None
        return Admitted(client, queued)

    def begin(self, admitted: Admitted, start: Callable[[], None]) -> None:
        """Start a request that was admitted, now or when its turn comes."""
        self._coming[admitted.client] += admitted.queued
        if not (self._begun or self._waiting):
            asyncio.get_running_loop().call_soon(self._start_next)
        if len(self._begun) < _STARTS_PER_ITERATION and not self._waiting:
            self._begun.append(admitted)
            start()
        else:
            self._waiting.append((admitted, start))

    def _start_next(self) -> None:
        """Note that those who began are queued, and start the next."""
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
        given = {name: value.decode("latin-1") for name, value in reversed(headers)}  # the first of a name counts
        return self._service.credentials.client(given.get(b"authorization", ""), given.get(b"x-api-key", ""), address)


def _model(method: bytes, path: str) -> str:
    """Return the model that a request asks for an answer; empty if it asks for something else."""
    if method != b"POST" or not (path.startswith(MODELS) and path.endswith(INFERENCE_SUFFIXES)):
        return ""
    return path[len(MODELS) :].split("/", 1)[0]


@lru_cache(maxsize=64)
def _answer(sentence: str, retry_after_s: int, more: tuple[Line, ...]) -> bytes:
    """Return headers, `more` of them, and body; while the queue is full they are the same again and again."""
    answer = refusal_response(OverloadedError(sentence, retry_after_s), MODELS)
    lines = b"".join(b"%b: %b\r\n" % header for header in (*answer.raw_headers, *more))
    return b"%b\r\n%b" % (lines, bytes(answer.body))
