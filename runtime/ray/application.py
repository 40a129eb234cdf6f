"""A Ray Serve application: every replica serves the HTTP protocol of `internvl-edge serve` with an engine of its own.

serve run internvl_edge.runtime.ray.application:build bundle=/models/bundle replicas=2
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.pool import WorkerEngine
from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

DEPLOYMENT = "InternVL"
_DRAIN_S = 20.0
"""Ray's default time for a replica to stop."""


def build(arguments: Mapping[str, Any]) -> Any:
    """Return the application; Ray calls this function with the arguments of its configuration.

    Args:
        arguments: ``bundle`` (a path on every node), ``replicas``, ``cpus`` and ``gpus`` of each replica, and fields of
            `ServeOptions`.

    Raises:
        InputError: Arguments are not known, or out of their ranges.
        BackendError: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise BackendError("Ray Serve is not installed; pip install 'internvl-edge[ray,serve]'") from error
    given = dict(arguments)
    bundle, replicas = given.pop("bundle", None), int(given.pop("replicas", 1))
    resources = {"num_cpus": float(given.pop("cpus", 1)), "num_gpus": float(given.pop("gpus", 0))}
    if bundle is None:
        raise InputError("ray: no bundle given; add bundle=PATH, a folder that every node can read")
    options = serve_options(given)

    def application() -> "ASGIApp":
        return Replica(Path(bundle), options)

    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_ongoing_requests=options.queue + options.max_batch,
        ray_actor_options=resources,
    )(serve.ingress(application)())
    return deployment.bind()


def serve_options(arguments: Mapping[str, Any]) -> ServeOptions:
    """Return the options of an engine; values from a command line are texts and are converted.

    Raises:
        InputError: Names are not known, or values are no numbers or out of their ranges.
    """
    defaults = {field.name: field.default for field in fields(ServeOptions)}
    if unknown := [name for name in arguments if name not in defaults]:
        raise InputError(
            f"ray: {', '.join(unknown)} not known; give bundle, replicas, cpus, gpus, {', '.join(defaults)}"
        )
    try:
        return ServeOptions(**{name: _like(defaults[name], value) for name, value in arguments.items()})
    except ValueError as error:
        raise InputError(f"ray: {error}; give numbers, true or false where these are meant") from error


class Replica:
    """The HTTP application of `serve` in one replica, which starts its engine and ends it."""

    def __init__(self, bundle: Path, options: ServeOptions) -> None:
        from internvl_edge.runtime.serve.protocol.http.app import Application

        record = Record()
        self._engine = WorkerEngine(bundle, options, record)
        self._service = Service(
            self._engine,
            record=record,
            options=ProtocolOptions.of(options, _DRAIN_S),
            credentials=Credentials(()),
        )
        self._application = Application(self._service)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or an event of ASGI's lifespan, which starts and ends the engine."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._application(scope, receive, send)

    async def _live(self, receive: "Receive", send: "Send") -> None:
        await receive()
        try:
            await self._engine.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._service.drain()
        await self._engine.close(_DRAIN_S)
        await send({"type": "lifespan.shutdown.complete"})


def _like(default: Any, value: Any) -> Any:
    """Return `value`, converted to the type of `default` if it is a text."""
    if isinstance(value, str) and isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{value!r} is neither true nor false")
        return value.lower() == "true"
    if isinstance(value, str) and isinstance(default, int | float):
        return type(default)(value)
    return int(value) if isinstance(value, str) and default is None and value.isdigit() else value
