"""The ASGI application: it records, authorises and answers every request, and releases the request's memory."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.protocol.http.admission import DeferredStart
from internvl_edge.runtime.serve.protocol.http.body import Body, Buffers
from internvl_edge.runtime.serve.protocol.http.call import Call
from internvl_edge.runtime.serve.protocol.http.cors import CrossOrigin, Line
from internvl_edge.runtime.serve.protocol.http.disconnect import ClientDisconnectedError
from internvl_edge.runtime.serve.protocol.http.document.operations import PUBLIC
from internvl_edge.runtime.serve.protocol.http.handlers import ROUTES, Handler
from internvl_edge.runtime.serve.protocol.http.responses import error_response, refusal_response
from internvl_edge.runtime.serve.protocol.service import Service, refusal_of

GONE = "499"
"""Status in the record of a request whose client has disconnected, as nginx uses it."""
DEFERRED_START = "internvl_edge.deferred"
"""Key in a scope's state of the `DeferredStart` for which the request waits."""
_CALL = "internvl_edge.call"
_SENTENCES = {404: "there is nothing at this path", 405: "the path does not take this method"}


class Application:
    """The ASGI application of one `Service`."""

    def __init__(self, service: Service, cross_origin: CrossOrigin | None = None) -> None:
        self._service = service
        self._cross_origin = cross_origin or CrossOrigin()
        self._buffers = Buffers(service.options.buffered_bytes)
        routes = [Route(path, _Endpoint(handler), methods=[method]) for method, path, handler in ROUTES]
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"a {scope['type']} connection is not served")
        http = Request(scope, receive)
        address = scope["client"][0] if scope.get("client") else ""
        method = f"{scope['method']} {scope['path']}"
        deferred: DeferredStart | None = scope.get("state", {}).pop(DEFERRED_START, None)
        held_s = 0.0 if deferred is None else await deferred.wait()
        with self._service.exchange("http", method, address, http.headers.get("traceparent"), held_s) as exchange:
            body = Body(http, self._service.options.body_bytes, self._buffers)
            scope[_CALL] = Call(http=http, service=self._service, exchange=exchange, body=body)
            scope["app"] = self  # with it the router raises an error for unknown paths
            try:
                lines = self._cross_origin.lines(http.headers.get("origin"))
                await self._answer(scope, receive, _Watched(send, exchange, lines))
            except ClientDisconnectedError:
                exchange.status = GONE
            finally:
                body.release()
                del scope[_CALL]  # it refers to the scope: a cycle that only the garbage collector would free

    async def _answer(self, scope: Scope, receive: Receive, send: "_Watched") -> None:
        call: Call = scope[_CALL]
        try:
            if (answer := self._cross_origin.preflight(scope["method"], call.http.headers)) is not None:
                await answer(scope, receive, send)
                return
            self._authorise(call)
            await self._router(scope, receive, send)
        except ClientDisconnectedError:
            raise
        except HTTPException as error:
            sentence = _SENTENCES.get(error.status_code, "the request is not understood")
            await error_response(sentence, error.status_code, scope["path"], error.headers)(scope, receive, send)
        except Exception as error:
            # The refusal gets no name here: its traceback has this frame, so a name would make a reference cycle.
            answer = refusal_response(refusal_of(error, call.exchange), scope["path"])
            if send.started:
                raise
            await answer(scope, receive, send)

    def _authorise(self, call: Call) -> None:
        if call.http.scope["path"] in PUBLIC:
            return
        headers = call.http.headers
        call.exchange.client = self._service.credentials.client(
            headers.get("authorization", ""), headers.get("x-api-key", ""), call.exchange.client
        )


class _Watched:
    """A `send` that records the status of the response, and adds the headers of cross-origin requests."""

    def __init__(self, send: Send, exchange: Exchange, lines: tuple[Line, ...]) -> None:
        self._send = send
        self._exchange = exchange
        self._lines = lines
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._exchange.status = str(message["status"])
            if self._lines:
                message = {**message, "headers": [*message.get("headers", ()), *self._lines]}
        await self._send(message)


class _Endpoint:
    """An ASGI application of one path; Starlette would wrap a function in more than is needed here."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._handler(scope[_CALL])
        await answer(scope, receive, send)
