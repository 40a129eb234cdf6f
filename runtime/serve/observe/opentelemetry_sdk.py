"""OpenTelemetry's SDK as its own environment variables set it up.

The SDK and its exporters read most of them: endpoint, headers, timeout, certificates, compression, sampler, limits of
spans and of batches. Those of the service's name, the exporter, its protocol, and whether there is any, are read here.
"""

import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from internvl_edge.runtime.errors import BackendError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

_SERVICE = "internvl-edge"
_UNNAMED = "unknown_service"
"""What the SDK calls a service that nobody named."""
_GROUP = "opentelemetry_traces_exporter"
"""Where packages with exporters say what they have."""
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PACKAGES = {
    "otlp_proto_http": "'internvl-edge[tracing]'",
    "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc",
    "zipkin": "opentelemetry-exporter-zipkin",
}


def provider_from_environment() -> "TracerProvider | None":
    """Return a provider that sends spans in batches as the environment says; None where it disables the SDK.

    Raises:
        BackendError: the SDK or an exporter is not installed, or a variable has a value that is not known.
    """
    if _variable("OTEL_SDK_DISABLED").lower() == "true":
        return None
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise BackendError("OpenTelemetry: not installed; pip install 'internvl-edge[tracing]'") from error
    exporters = [_exporter(name) for name in _exporter_names()]
    provider = TracerProvider(resource=_resource())
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _resource() -> "Resource":
    """Return what the environment says of the service, with a name where it gives none."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    told = Resource.create()
    if str(told.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
        return told.merge(Resource({SERVICE_NAME: _SERVICE}))
    return told


def _exporter_names() -> list[str]:
    """Return the names of the exporters that are wanted."""
    names = [name.strip() for name in (_variable("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    return [_otlp() if name == "otlp" else name for name in names if name not in ("", "none")]


def _otlp() -> str:
    protocol = (
        _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or _variable("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )
    if protocol not in _PROTOCOLS:
        raise BackendError(
            f"OpenTelemetry: OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; choose from {', '.join(_PROTOCOLS)}"
        )
    return _PROTOCOLS[protocol]


def _exporter(name: str) -> Any:
    found = list(entry_points(group=_GROUP, name=name))
    if not found:
        package = _PACKAGES.get(name, "the package that has it")
        raise BackendError(f"OpenTelemetry: no exporter {name} is installed; pip install {package}")
    try:
        return found[0].load()()
    except (ImportError, ValueError) as error:
        raise BackendError(f"OpenTelemetry: exporter {name} cannot be set up ({error}); see its variables") from error


def _variable(variable: str) -> str:
    """Return a variable's value; an empty one counts as not set."""
    return os.environ.get(variable, "").strip()
