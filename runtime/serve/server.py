"""A server from opening its ports to its last answer: HTTP and gRPC on one event loop, before one engine."""

import asyncio
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.serve.engine import Engine
from internvl_edge.runtime.serve.protocol.service import Service

if TYPE_CHECKING:
    from uvicorn import Server

logger = logging.getLogger(__name__)

_PACKAGES = (
    "uvloop",
    "uvicorn",
    "httptools",
    "starlette",
    "orjson",
    "grpc",
    "grpc_reflection",
    "google.protobuf",
    "prometheus_client",
)
_IDLE_S = 30
"""Longest time that an HTTP connection stays open between two requests."""
_BACKLOG = 2048
_PORTS = 65535
_YOUNG_OBJECTS = 50_000
"""Threshold of the garbage collector's youngest generation: about as many objects as some hundreds of requests have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Addresses, ports and certificates of a server."""

    host: str = "127.0.0.1"
    http: int | None = 8000
    """Port of HTTP; 0: any free port; None: no HTTP."""
    grpc: int | None = 8001
    """Port of gRPC; 0: any free port; None: no gRPC."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may read answers over HTTP (CORS); ``*``: every origin."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: No port is given, a port is out of range or given twice, or a certificate lacks its key.
        """
        if self.http is None and self.grpc is None:
            raise InputError("serve: neither HTTP nor gRPC is wanted; give one of them a port")
        wrong = [f"{name} {port}" for name, port in (("http", self.http), ("grpc", self.grpc)) if not _is_port(port)]
        if wrong:
            raise InputError(f"serve: {', '.join(wrong)}; a port is a number from 0, for any free one, to {_PORTS}")
        if self.http == self.grpc and self.http:
            raise InputError(f"serve: HTTP and gRPC are both to listen on {self.http}; give each its own port")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("serve: TLS takes a certificate and its key; give both or none")


def _is_port(port: int | None) -> bool:
    return port is None or 0 <= port <= _PORTS


class StartedEngine(Engine, Protocol):
    """An engine that the server starts and closes."""

    async def start(self) -> None:
        """Start the engine; return when it takes requests."""
        ...

    async def close(self, grace_s: float) -> None:
        """Answer the accepted requests for at most `grace_s` seconds, and end."""
        ...


async def serve(
    engine: StartedEngine, service: Service, options: ServerOptions, announce: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then let accepted requests finish; a second signal ends the process at once.

    Ports open before the engine has started: until then the server is live, and not ready.

    Args:
        engine: The engine to start and to close.
        service: The service that the protocols use.
        options: Where to listen.
        announce: Function that is called with each line for the user: addresses, ready, stopping.

    Raises:
        EdgeError: A port is taken, a package is missing, or the certificate or bundle cannot be used.
    """
    require_packages()
    stop = _stop_on_signals()
    grace_s = service.options.drain_s
    async with Listeners(service, options) as listeners:
        announce(listeners.words)
        starting = asyncio.ensure_future(engine.start())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                _tune_garbage_collector()
                announce(f"Ready: {', '.join(engine.signatures)}")
                await stopping
                announce("Stopping: accepted requests finish")
        finally:
            service.drain()
            await _ended(starting)
            stopping.cancel()
            await listeners.close(grace_s)
            await engine.close(grace_s)


def require_packages() -> None:
    """Check that the packages of the extra `serve` are installed.

    Raises:
        BackendError: Packages are missing; the message names all of them.
    """
    missing = []
    for name in _PACKAGES:
        try:
            import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise BackendError(f"serve: {', '.join(missing)} not installed; pip install 'internvl-edge[serve]'")


class Listeners:
    """The open ports and their HTTP and gRPC servers, as an asynchronous context manager."""

    def __init__(self, service: Service, options: ServerOptions) -> None:
        self._service = service
        self._options = options
        self._http: Server | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._grpc: Any = None
        self._places: list[str] = []
        self.ports: list[int] = []
        """Open ports: of HTTP, then of gRPC; without those that are not wanted."""

    @property
    def words(self) -> str:
        """Return the addresses of all listeners as one line."""
        return ", ".join(self._places)

    async def __aenter__(self) -> "Listeners":
        """Open the ports and start their servers."""
        try:
            await self._open()
        except BaseException:
            await self.close(0)
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the ports that are still open."""
        await self.close(0)

    async def close(self, grace_s: float) -> None:
        """Accept no more connections; requests under way have `grace_s` seconds to finish."""
        closing: list[Any] = []
        if self._grpc is not None:
            closing.append(self._grpc.stop(grace_s))
        if self._http is not None and self._http_task is not None:
            self._http.should_exit = True
            closing.append(self._http_task)
        await asyncio.gather(*closing)
        self._grpc = self._http = None

    async def _open(self) -> None:
        options, host = self._options, self._options.host
        secure = "s" if options.tls_cert else ""
        if options.grpc is not None:
            from internvl_edge.runtime.serve.protocol.grpc.server import grpc_server, listen

            _bound(host, options.grpc).close()  # raises if the port is taken; gRPC would log lines of its own
            self._grpc = grpc_server(self._service)
            port = listen(self._grpc, host, options.grpc, _pem(options))
            self.ports.append(port)
            self._places.append(f"gRPC on grpc{secure}://{_authority(host, port)}")
        if options.http is not None:
            self._http = http_server(self._service, options)  # may raise, so it comes before the socket
            listener = _bound(host, options.http)
            port = listener.getsockname()[1]
            self.ports.insert(0, port)
            self._places.insert(0, f"HTTP on http{secure}://{_authority(host, port)}")
            self._http_task = asyncio.ensure_future(self._http.serve(sockets=[listener]))
            while not self._http.started and not self._http_task.done():
                await asyncio.sleep(0.005)
        if self._grpc is not None:
            await self._grpc.start()


def http_server(service: Service, options: ServerOptions) -> "Server":
    """Return a uvicorn server of the service that installs no signal handlers.

    Raises:
        InputError: The certificate or key cannot be used, or an origin is not valid.
    """
    import uvicorn

    from internvl_edge.runtime.serve.protocol.http.admission import AdmissionControl
    from internvl_edge.runtime.serve.protocol.http.app import Application
    from internvl_edge.runtime.serve.protocol.http.connection.timeouts import timed_protocol
    from internvl_edge.runtime.serve.protocol.http.cors import CrossOrigin, require_origins

    class QuietServer(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    require_origins(options.cors_origins)
    cross_origin = CrossOrigin(options.cors_origins)
    config = uvicorn.Config(
        Application(service, cross_origin),
        http=timed_protocol(service.options, AdmissionControl(service, cross_origin)),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=int(service.options.drain_s),
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{options.tls_cert}, {options.tls_key}: no usable certificate and key ({error})") from error
    return QuietServer(config)


def _bound(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket; its protocol is given, since asyncio sets TCP_NODELAY only where it is."""
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        place = _authority(host, port)
        raise InputError(f"{place}: cannot be listened on ({error.strerror}); choose another port") from error
    return listener


def _tune_garbage_collector() -> None:
    """Freeze the objects that exist now and collect garbage rarely.

    Requests leave no reference cycles, so the collector need not run for each burst of them; its pauses were the
    longest iterations of the event loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def _pem(options: ServerOptions) -> tuple[bytes, bytes] | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    try:
        return options.tls_key.read_bytes(), options.tls_cert.read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); give a PEM file") from error


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _stop_on_signals() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets; a second signal has its default effect."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def received() -> None:
        stop.set()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, received)
    return stop


async def _ended(task: "asyncio.Future[None]") -> None:
    """Cancel a task that has not ended, and wait for its end."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
