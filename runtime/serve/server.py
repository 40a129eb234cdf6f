"""A server from its first port to its last answer: HTTP and gRPC on one event loop around one engine."""

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
"""How long a connection is kept between two requests."""
_BACKLOG = 2048
_PORTS = 65535
_YOUNG_OBJECTS = 50_000
"""Objects that may refer to others, of requests that are under way: some hundreds of requests at once have as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where a server listens."""

    host: str = "127.0.0.1"
    http: int | None = 8000
    """0: any free port; None: no HTTP."""
    grpc: int | None = 8001
    """0: any free port; None: no gRPC."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors_origins: tuple[str, ...] = ()
    """Whose pages a browser lets read answers over HTTP; ``*``: everybody's."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: nothing to listen on, or half of a key pair.
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
    """An engine that the server starts and ends."""

    async def start(self) -> None:
        """Return when requests are taken."""
        ...

    async def close(self, grace_s: float) -> None:
        """Answer what was taken up, for `grace_s` at most, and end."""
        ...


async def serve(
    engine: StartedEngine, service: Service, options: ServerOptions, announce: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then let accepted requests finish; a second signal ends it at once.

    Ports are open before the engine is: it is live, and not ready. `announce` is told where and when it serves.

    Raises:
        EdgeError: a port is taken, a package, certificate or bundle is not as it should be.
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
    """Check that what serving takes is installed.

    Raises:
        BackendError: packages are missing.
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
    """The ports and the servers behind them, open as long as the context is."""

    def __init__(self, service: Service, options: ServerOptions) -> None:
        self._service = service
        self._options = options
        self._http: Server | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._grpc: Any = None
        self._places: list[str] = []
        self.ports: list[int] = []
        """Of HTTP and gRPC, as far as they are wanted."""

    @property
    def words(self) -> str:
        """Return where they listen."""
        return ", ".join(self._places)

    async def __aenter__(self) -> "Listeners":
        """Open the ports."""
        try:
            await self._open()
        except BaseException:
            await self.close(0)
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close what is open still."""
        await self.close(0)

    async def close(self, grace_s: float) -> None:
        """Take no more connections; requests under way have `grace_s` to finish."""
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

            _bound(host, options.grpc).close()  # whether it is taken: gRPC says that in lines of its own
            self._grpc = grpc_server(self._service)
            port = listen(self._grpc, host, options.grpc, _pem(options))
            self.ports.append(port)
            self._places.append(f"gRPC on grpc{secure}://{_authority(host, port)}")
        if options.http is not None:
            listener = _bound(host, options.http)
            self._http = http_server(self._service, options)
            port = listener.getsockname()[1]
            self.ports.insert(0, port)
            self._places.insert(0, f"HTTP on http{secure}://{_authority(host, port)}")
            self._http_task = asyncio.ensure_future(self._http.serve(sockets=[listener]))
            while not self._http.started and not self._http_task.done():
                await asyncio.sleep(0.005)
        if self._grpc is not None:
            await self._grpc.start()


def http_server(service: Service, options: ServerOptions) -> "Server":
    """Return uvicorn around the service; it leaves signals to others.

    Raises:
        InputError: the certificate or key can't be used, or an origin is none.
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
    """Return a socket that names its protocol: asyncio turns Nagle's delay off for those alone."""
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
    """Let the garbage collector look rarely, and not at what is there now, which stays.

    Requests leave nothing for it, so it need not come for each burst of them: its pauses were the longest turns of the
    loop.
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
    """Return what the first SIGTERM or SIGINT sets; the second one does what it did before."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def received() -> None:
        stop.set()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, received)
    return stop


async def _ended(task: "asyncio.Future[None]") -> None:
    """Cancel a task that runs, and wait for its end."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
