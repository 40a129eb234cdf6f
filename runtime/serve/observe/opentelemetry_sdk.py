"""OpenTelemetry's SDK, configured by its own environment variables.

The SDK and its exporters read most of the variables: endpoint, headers, timeout, certificates, compression, sampler,
limits of spans and of batches. The variables of the service's name, the exporter and its protocol are read here.
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
"""The SDK's default for the name of a service."""
_GROUP = "opentelemetry_traces_exporter"
"""The entry points with which packages register exporters."""
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PACKAGES = {
    "otlp_proto_http": "'internvl-edge[tracing]'",
    "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc",
    "zipkin": "opentelemetry-exporter-zipkin",
}


def provider_from_environment() -> "TracerProvider | None":
    """Return a provider that sends spans in batches as the environment configures it; None if that disables the SDK.

    Raises:
        BackendError: The SDK or an exporter is not installed, or a variable has an unknown value.
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
    """Return the attributes of the service from the environment, with our name if it gives none."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
        return resource.merge(Resource({SERVICE_NAME: _SERVICE}))
    return resource


def _exporter_names() -> list[str]:
    """Return the names of the configured exporters."""
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


def _variable(name: str) -> str:
    """Return the value of an environment variable; an empty string if it is not set."""
    return os.environ.get(name, "").strip()
