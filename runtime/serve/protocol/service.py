"""The part of a request's handling that all protocols share: record, access log, model, draining, refusals."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import cast

from internvl_edge.runtime.serve.engine import Engine
from internvl_edge.runtime.serve.observe.access_log import AccessLog
from internvl_edge.runtime.serve.observe.exchange import Answered, Exchange
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.observe.trace_context import continued
from internvl_edge.runtime.serve.protocol.checks import served
from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.refusals import RETRY_S, FailedError, RefusalError, UnavailableError
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.signature import Signature

logger = logging.getLogger(__name__)

_LONGEST_METHOD = 200
_ANSWER = frozenset(("prompt_tokens", "completion_tokens", "finish_reason"))
"""Outputs of a chat model's answer that are noted; a request may ask for some of them only."""


class Service:
    """An engine with its record, API keys and limits."""

    def __init__(
        self,
        engine: Engine,
        *,
        record: Record | None = None,
        options: ProtocolOptions | None = None,
        credentials: Credentials | None = None,
        access_log: AccessLog | None = None,
        memory_bytes: Callable[[], Mapping[str, int]] = dict,
        count_tokens: Callable[[Sequence[str]], int] = lambda texts: 0,
    ) -> None:
        self.engine = engine
        self.record = record or Record()
        self.options = options or ProtocolOptions()
        self.credentials = credentials or Credentials()
        self.memory_bytes = memory_bytes
        self.count_tokens = count_tokens
        self._access_log = access_log
        self._draining = False

    @property
    def ready(self) -> bool:
        """Return whether a worker takes requests now."""
        return self.engine.ready and not self._draining

    @property
    def draining(self) -> bool:
        """Return whether the server is stopping."""
        return self._draining

    def drain(self) -> None:
        """Refuse new requests from now on; accepted ones finish."""
        self._draining = True

    @contextmanager
    def exchange(
        self, protocol: str, method: str, address: str, traceparent: str | None, held_s: float = 0.0
    ) -> Iterator[Exchange]:
        """Record one request, from its head, which came `held_s` seconds ago, to the end of its answer."""
        exchange = Exchange(
            protocol=protocol,
            method=method[:_LONGEST_METHOD],
            client=address,
            trace=continued(traceparent),
            parent=traceparent or "",
            began=time.monotonic() - held_s,
            held_s=held_s,
        )
        self.record.began(exchange)
        try:
            yield exchange
        finally:
            exchange.seconds = time.monotonic() - exchange.began
            self.record.ended(exchange)
            if self._access_log:
                self._access_log.write(exchange)

    def model(self, exchange: Exchange, name: str, version: str = "") -> Signature:
        """Return the signature of the model that a request asks, and note the model in its exchange.

        Raises:
            UnknownModelError: There is no such model or version.
            UnavailableError: The server starts, so its models are not known yet.
        """
        signatures = self.engine.signatures
        if not signatures:
            raise UnavailableError("the server starts; try again later", RETRY_S)
        signature = served(signatures, name, version)
        exchange.model = name
        return signature

    def require_room(self, exchange: Exchange) -> None:
        """Check that the queue has room for a request, before its body is read.

        Raises:
            OverloadedError: The queue is full.
        """
        self.engine.require_room(exchange.model, exchange.client)

    async def infer(self, exchange: Exchange, request: Request) -> Response:
        """Answer a request.

        Raises:
            RefusalError: The request gets no answer, for the reason that the error gives.
        """
        self._take(exchange, request)
        response = await self.engine.infer(request)
        _note_answer(exchange, response)
        return response

    def stream(self, exchange: Exchange, request: Request) -> AsyncIterator[Response]:
        """Yield the answer in parts; a model that does not stream gives one part.

        Raises:
            RefusalError: There is no answer, or no further part, for the reason that the error gives.
        """
        self._take(exchange, request)
        return self._noted(exchange, request)

    async def _noted(self, exchange: Exchange, request: Request) -> AsyncIterator[Response]:
        async with aclosing(cast("AsyncGenerator[Response, None]", self.engine.stream(request))) as parts:
            async for part in parts:
                if part.final:
                    _note_answer(exchange, part)
                yield part

    def _take(self, exchange: Exchange, request: Request) -> None:
        if self._draining:
            raise UnavailableError("the server stops; ask another one", retry_after_s=self.options.drain_s)
        exchange.taken = True
        exchange.id = request.id
        batched = self.engine.signatures[request.model].batched
        exchange.rows = max((len(array) for array in request.inputs.values()), default=1) if batched else 1


def _note_answer(exchange: Exchange, response: Response) -> None:
    """Note what an answer of a chat model took; others are not noted."""
    if not _ANSWER.issubset(response.outputs):
        return
    prompt, completion = (int(response.outputs[f"{kind}_tokens"].item()) for kind in ("prompt", "completion"))
    now = time.monotonic()
    first = response.first_at or now
    exchange.answered = Answered(
        prompt_tokens=prompt,
        completion_tokens=completion,
        finish_reason=response.outputs["finish_reason"].item().decode(),
        first_s=first - exchange.began,
        tokens_per_s=(completion - 1) / (now - first) if completion > 1 and now > first else None,
    )


def refusal_of(error: Exception, exchange: Exchange) -> RefusalError:
    """Return the refusal that a client gets for an error, and note it; unexpected errors appear in the log alone."""
    if isinstance(error, RefusalError):
        refusal = error
    else:
        logger.error("%s failed", exchange.method, exc_info=error)
        refusal = FailedError("the server failed on this request; its log says why")
        exchange.taken = False  # the engine has not counted it, so the record does
    exchange.refusal = type(refusal).__name__
    return refusal
