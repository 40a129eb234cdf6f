"""The gRPC server with its services and limits."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.serve.protocol.grpc.health import Health
from internvl_edge.runtime.serve.protocol.grpc.messages import HEALTH_SERVICE, SERVICE, descriptors
from internvl_edge.runtime.serve.protocol.grpc.servicer import STREAM, UNARY, Servicer
from internvl_edge.runtime.serve.protocol.service import Service

if TYPE_CHECKING:
    from grpc.aio import Server

_CALLS = 4096
"""Largest number of concurrent calls; gRPC itself refuses more."""


def grpc_server(service: Service) -> "Server":
    """Return a gRPC server of the service, without a port."""
    import grpc
    from grpc_reflection.v1alpha import reflection

    options = [
        ("grpc.max_receive_message_length", service.options.body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # so that a port of another server is an error
        ("grpc.server_handshake_timeout_ms", int(service.options.header_s * 1e3)),
        ("grpc.keepalive_time_ms", int(service.options.body_s * 1e3)),
        ("grpc.keepalive_timeout_ms", int(service.options.header_s * 1e3)),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_CALLS)
    servicer = Servicer(service)
    handlers = {name: grpc.unary_unary_rpc_method_handler(_unary(servicer, name), None, _serialized) for name in UNARY}
    handlers[STREAM] = grpc.stream_stream_rpc_method_handler(servicer.stream, None, _serialized)
    health = Health(service)
    checks = {
        "Check": grpc.unary_unary_rpc_method_handler(health.check, None, _serialized),
        "Watch": grpc.unary_stream_rpc_method_handler(health.watch, None, _serialized),
    }
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(SERVICE, handlers),
            grpc.method_handlers_generic_handler(HEALTH_SERVICE, checks),
        )
    )
    names = (SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=descriptors())
    return server


def listen(server: "Server", host: str, port: int, tls: tuple[bytes, bytes] | None) -> int:
    """Bind the server to a port and return its number; `tls` is (key, certificate) in PEM.

    Raises:
        InputError: The port is taken.
    """
    import grpc

    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([tls])))
    except RuntimeError as error:
        raise InputError(f"{address}: cannot be listened on for gRPC; choose another port") from error


def _unary(servicer: Servicer, name: str) -> Callable[[bytes, Any], Awaitable[Any]]:
    return partial(servicer.answer, name)


def _serialized(content: Any) -> bytes:
    raw: bytes = content.SerializeToString()
    return raw
