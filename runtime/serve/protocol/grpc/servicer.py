"""The handlers of all gRPC calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.protocol import describe
from internvl_edge.runtime.serve.protocol.checks import deadline_of, model_parameters, request_id, usual_seconds
from internvl_edge.runtime.serve.protocol.grpc.infer import inputs_of, outputs_of, parameters_of, response_message
from internvl_edge.runtime.serve.protocol.grpc.management import MANAGED
from internvl_edge.runtime.serve.protocol.grpc.messages import message
from internvl_edge.runtime.serve.protocol.service import Service, refusal_of
from internvl_edge.runtime.serve.refusals import BadRequestError, RefusalError, UnavailableError, UnknownModelError
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.signature import Signature

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from grpc.aio import ServicerContext

Handler = Callable[["Servicer", Any, Exchange, "float | None"], Awaitable[Any]]
_AT_ONCE = 32
"""Largest number of requests of one stream that are handled concurrently; the others wait in the connection."""


class Servicer:
    """The gRPC handlers of one `Service`."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def answer(self, name: str, request: bytes, context: "ServicerContext[Any, Any]") -> Any:
        """Answer the call `name`."""
        with self._exchange(name, context) as exchange:
            exchange.status = "OK"
            try:
                self._authorise(name, exchange, context)
                asked, handler = UNARY[name]
                return await handler(self, _parsed(asked, request), exchange, context.time_remaining())
            except asyncio.CancelledError:
                exchange.status = "CANCELLED"
                raise
            except Exception as error:
                refusal = _noted(error, exchange)
        await _abort(context, refusal)
        return None

    async def stream(self, requests: AsyncIterator[bytes], context: "ServicerContext[Any, Any]") -> AsyncIterator[Any]:
        """Answer the requests of one stream concurrently, each in parts."""
        answers: asyncio.Queue[Any] = asyncio.Queue(_AT_ONCE)
        free = asyncio.Semaphore(_AT_ONCE)
        tasks: set[asyncio.Task[None]] = set()

        async def read() -> None:
            async for request in requests:
                await free.acquire()
                task = asyncio.ensure_future(self._parts(request, context, answers))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(lambda _: free.release())
            while tasks:
                await asyncio.wait(set(tasks))
            await answers.put(None)

        reader = asyncio.ensure_future(read())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            for task in (reader, *tasks):
                task.cancel()

    async def _parts(self, raw: bytes, context: "ServicerContext[Any, Any]", answers: "asyncio.Queue[Any]") -> None:
        """Answer one request of a stream; a refusal is sent as an answer with an error message."""
        asked_id = ""
        with self._exchange("ModelStreamInfer", context) as exchange:
            exchange.status = "OK"
            try:
                self._authorise("ModelStreamInfer", exchange, context)
                asked = _parsed("ModelInferRequest", raw)
                asked_id = asked.id
                signature, request = self._request(asked, exchange, context.time_remaining())
                parts = cast("AsyncGenerator[Response, None]", self.service.stream(exchange, request))
                async with aclosing(parts):
                    async for part in parts:
                        content = response_message(signature, request.id, part, part=True)
                        await answers.put(message("ModelStreamInferResponse")(infer_response=content))
            except asyncio.CancelledError:
                exchange.status = "CANCELLED"
                raise
            except Exception as error:
                refusal = _noted(error, exchange)
                content = message("ModelInferResponse")(id=asked_id)
                content.parameters["triton_final_response"].bool_param = True
                await answers.put(
                    message("ModelStreamInferResponse")(error_message=str(refusal), infer_response=content)
                )

    def _exchange(self, name: str, context: "ServicerContext[Any, Any]") -> Any:
        return self.service.exchange("grpc", name, _address(context.peer()), _metadata(context).get("traceparent"))

    def _authorise(self, name: str, exchange: Exchange, context: "ServicerContext[Any, Any]") -> None:
        if name in PUBLIC:
            return
        metadata = _metadata(context)
        exchange.client = self.service.credentials.client(
            metadata.get("authorization", ""), metadata.get("x-api-key", ""), exchange.client
        )

    def _request(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> tuple[Signature, Request]:
        signature = self.service.model(exchange, asked.model_name, asked.model_version)
        parameters = parameters_of(asked.parameters)
        inputs = inputs_of(asked)
        usual_s = usual_seconds(signature, inputs, self.service.options)
        request = Request(
            model=signature.name,
            inputs=inputs,
            outputs=outputs_of(asked),
            parameters=model_parameters(signature, parameters),
            id=request_id(asked.id),
            client=exchange.client,
            deadline=deadline_of(parameters, usual_s, remaining_s),
            trace=exchange.trace.header,
        )
        return signature, request

    async def _live(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        return message("ServerReadyResponse")(ready=self.service.ready)

    async def _model_ready(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        try:
            self.service.model(exchange, asked.name, asked.version)
        except (UnknownModelError, UnavailableError):  # as in Triton: not ready, and no error
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=self.service.ready)

    async def _server(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        return _filled("ServerMetadataResponse", describe.server_metadata())

    async def _model(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        signature = self.service.model(exchange, asked.name, asked.version)
        return _filled("ModelMetadataResponse", describe.model_metadata(signature))

    async def _config(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        signature = self.service.model(exchange, asked.name, asked.version)
        config = describe.model_config(signature, self.service.options.max_batch)
        return _filled("ModelConfigResponse", {"config": config})

    async def _statistics(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        models = self.service.engine.signatures
        names = [self.service.model(exchange, asked.name, asked.version).name] if asked.name else list(models)
        statistics = [describe.model_statistics(self.service.record, models[name]) for name in names]
        return _filled("ModelStatisticsResponse", {"model_stats": statistics})

    async def _index(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        models = describe.repository_index(list(self.service.engine.signatures), self.service.ready, asked.ready)
        return _filled("RepositoryIndexResponse", {"models": models})

    async def _infer(self, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
        signature, request = self._request(asked, exchange, remaining_s)
        return response_message(signature, request.id, await self.service.infer(exchange, request))


async def _managed(name: str, servicer: Servicer, asked: Any, exchange: Exchange, remaining_s: float | None) -> Any:
    if getattr(asked, "model_name", "") and name == "TraceSetting":
        servicer.service.model(exchange, asked.model_name)
    return MANAGED[name](asked)


UNARY: dict[str, tuple[str, Handler]] = {
    "ServerLive": ("ServerLiveRequest", Servicer._live),
    "ServerReady": ("ServerReadyRequest", Servicer._ready),
    "ModelReady": ("ModelReadyRequest", Servicer._model_ready),
    "ServerMetadata": ("ServerMetadataRequest", Servicer._server),
    "ModelMetadata": ("ModelMetadataRequest", Servicer._model),
    "ModelConfig": ("ModelConfigRequest", Servicer._config),
    "ModelStatistics": ("ModelStatisticsRequest", Servicer._statistics),
    "RepositoryIndex": ("RepositoryIndexRequest", Servicer._index),
    "ModelInfer": ("ModelInferRequest", Servicer._infer),
    **{name: (f"{name}Request", partial(_managed, name)) for name in MANAGED},
}
"""Name of a call -> (name of its request message, its handler)."""
STREAM = "ModelStreamInfer"
PUBLIC = ("ServerLive", "ServerReady")
"""Calls that need no API key: health checks of orchestrators send none."""


def _parsed(name: str, raw: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message(name).FromString(raw)
    except DecodeError as error:
        raise BadRequestError(f"the message is no {name}") from error


def _filled(name: str, content: dict[str, Any]) -> Any:
    from google.protobuf.json_format import ParseDict

    return ParseDict(content, message(name)())


def _noted(error: Exception, exchange: Exchange) -> RefusalError:
    refusal = refusal_of(error, exchange)
    exchange.status = refusal.grpc
    return refusal


async def _abort(context: "ServicerContext[Any, Any]", refusal: RefusalError) -> None:
    from grpc import StatusCode

    metadata: tuple[tuple[str, str], ...] = ()
    if refusal.retry_after_s is not None:
        metadata = (("grpc-retry-pushback-ms", str(int(refusal.retry_after_s * 1e3))),)
    await context.abort(getattr(StatusCode, refusal.grpc), str(refusal), metadata)


def _metadata(context: "ServicerContext[Any, Any]") -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _address(peer: str) -> str:
    """Return the address of a peer such as `ipv4:127.0.0.1:50000`, without kind and port."""
    kind, _, rest = peer.partition(":")
    return rest.rpartition(":")[0] if kind in ("ipv4", "ipv6") else peer
