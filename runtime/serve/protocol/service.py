"""What every protocol does with a request, around the engine."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from internvl_edge.runtime.serve.engine import Engine
from internvl_edge.runtime.serve.observe.access_log import AccessLog
from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.observe.trace_context import continued
from internvl_edge.runtime.serve.protocol.checks import served
from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.refusals import FailedError, RefusalError, UnavailableError
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.signature import Signature

logger = logging.getLogger(__name__)

_LONGEST_METHOD = 200
_RETRY_S = 1.0


class Service:
    """An engine with its figures, keys and limits."""

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
        """Return whether a request would be taken up at once."""
        return self.engine.ready and not self._draining

    @property
    def draining(self) -> bool:
        """Return whether the server stops."""
        return self._draining

    def drain(self) -> None:
        """Take no new requests; those that were taken finish."""
        self._draining = True

    @contextmanager
    def exchange(
        self, protocol: str, method: str, address: str, traceparent: str | None, held_s: float = 0.0
    ) -> Iterator[Exchange]:
        """Watch one request from its head, which came `held_s` ago, to the end of its answer."""
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
        """Return the model that an exchange is about.

        Raises:
            UnknownModelError: there is no such model or version.
            UnavailableError: it is not known yet which models there are.
        """
        signatures = self.engine.signatures
        if not signatures:
            raise UnavailableError("the server starts; try again later", _RETRY_S)
        signature = served(signatures, name, version)
        exchange.model = name
        return signature

    def require_room(self, exchange: Exchange) -> None:
        """Check that the engine might take a request, before its body is read.

        Raises:
            OverloadedError: it can't.
        """
        self.engine.require_room(exchange.model, exchange.client)

    async def infer(self, exchange: Exchange, request: Request) -> Response:
        """Answer a request.

        Raises:
            RefusalError: why there is no answer.
        """
        self._take(exchange, request)
        return await self.engine.infer(request)

    def stream(self, exchange: Exchange, request: Request) -> AsyncIterator[Response]:
        """Answer a request in parts, or in one where its model does not stream.

        Raises:
            RefusalError: why there is no answer, or no more of it.
        """
        self._take(exchange, request)
        return self.engine.stream(request)

    def _take(self, exchange: Exchange, request: Request) -> None:
        if self._draining:
            raise UnavailableError("the server stops; ask another one", retry_after_s=self.options.drain_s)
        exchange.taken = True
        exchange.id = request.id
        batched = self.engine.signatures[request.model].batched
        exchange.rows = max((len(array) for array in request.inputs.values()), default=1) if batched else 1


def refusal_of(error: Exception, exchange: Exchange) -> RefusalError:
    """Return what a client is told of an error, and note it; the log alone gets what nobody foresaw."""
    if isinstance(error, RefusalError):
        refusal = error
    else:
        logger.error("%s failed", exchange.method, exc_info=error)
        refusal = FailedError("the server failed on this request; its log says why")
        exchange.taken = False  # so that it is counted
    exchange.refusal = type(refusal).__name__
    return refusal
