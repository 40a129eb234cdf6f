"""gRPC's health service, which Kubernetes, load balancers and `grpc_health_probe` call."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from internvl_edge.runtime.serve.protocol.checks import quoted
from internvl_edge.runtime.serve.protocol.grpc.messages import HEALTH_SERVICE, SERVICE, health_message
from internvl_edge.runtime.serve.protocol.service import Service

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_SERVICES = ("", SERVICE, HEALTH_SERVICE)
"""Names that may be asked besides those of models; the empty name is the server as a whole."""
_LOOK_S = 0.25
"""Seconds between two checks of a watched state."""


class Health:
    """The handlers of the health service, which report whether a `Service` or a model takes requests; without a key."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def check(self, raw: bytes, context: "ServicerContext[Any, Any]") -> Any:
        """Return the current state of a service or model."""
        from grpc import StatusCode

        name = await _asked(raw, context)
        state = self._state(name)
        if state == _SERVICE_UNKNOWN:
            await context.abort(StatusCode.NOT_FOUND, f"there is no service or model {quoted(name)}")
        return _response(state)

    async def watch(self, raw: bytes, context: "ServicerContext[Any, Any]") -> AsyncIterator[Any]:
        """Yield the state of a service or model now and after each change, until the server stops."""
        name, sent = await _asked(raw, context), None
        while True:
            draining = self._service.draining
            if (state := self._state(name)) != sent:
                sent = state
                yield _response(state)
            if draining:
                return
            await asyncio.sleep(_LOOK_S)

    def _state(self, name: str) -> int:
        models = self._service.engine.signatures
        if models and name not in (*_SERVICES, *models):
            return _SERVICE_UNKNOWN
        return _SERVING if self._service.ready else _NOT_SERVING


async def _asked(raw: bytes, context: "ServicerContext[Any, Any]") -> str:
    from google.protobuf.message import DecodeError
    from grpc import StatusCode

    try:
        return str(health_message("HealthCheckRequest").FromString(raw).service)
    except DecodeError:
        await context.abort(StatusCode.INVALID_ARGUMENT, "the message is no HealthCheckRequest")
        raise


def _response(state: int) -> Any:
    return health_message("HealthCheckResponse")(status=state)
