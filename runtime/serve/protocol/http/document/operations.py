"""Every path with what it is for, what it takes and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass

PROTOCOL, MANAGEMENT, OPENAI, WATCHING = "Open Inference Protocol", "Triton's management", "OpenAI", "Watching"
JSON, TEXT, HTML, EVENTS, BYTES = (
    "application/json",
    "text/plain",
    "text/html",
    "text/event-stream",
    "application/octet-stream",
)


OPEN = ("/v2/health/live", "/v2/health/ready")
"""Paths that need no key: those who restart servers have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    tag: str
    summary: str
    takes: str = ""
    """Name of the schema of its body; empty: it has none."""
    gives: str = "Anything"
    """Name of the schema of its answer in JSON."""
    media: str = JSON
    """Of its answer."""
    example: Mapping[str, object] | None = None
    """A body."""


_TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a red kite"]}
_MODEL: Mapping[tuple[str, str], Operation] = {
    ("GET", ""): Operation(tag=PROTOCOL, summary="Names, types and shapes of a model.", gives="ModelMetadata"),
    ("GET", "/ready"): Operation(tag=PROTOCOL, summary="Whether a model takes requests: 503 where it does not."),
    ("GET", "/config"): Operation(tag=PROTOCOL, summary="The part of Triton's model configuration that clients read."),
    ("GET", "/stats"): Operation(tag=WATCHING, summary="Triton's statistics of a model: sums since the start."),
    ("POST", "/infer"): Operation(
        tag=PROTOCOL,
        summary="Run a model on tensors, in JSON or as binary data behind it.",
        takes="InferRequest",
        gives="InferResponse",
        example={"inputs": [_TENSOR]},
    ),
    ("POST", "/generate"): Operation(
        tag=PROTOCOL,
        summary="Run a model on plain values: keys that name inputs are these, all others are parameters.",
        takes="Generate",
        gives="Generated",
        example={"text": "a red kite"},
    ),
    ("POST", "/generate_stream"): Operation(
        tag=PROTOCOL,
        summary="The same, with each part of the answer as a server-sent event.",
        takes="Generate",
        media=EVENTS,
        example={"image": "data:image/png;base64,..."},
    ),
}
_VERSION = "/versions/{version}"


def _memory(kind: str) -> dict[tuple[str, str], Operation]:
    """Return the paths of one kind of shared memory, of which there is none."""
    place = f"/v2/{kind}sharedmemory"
    listing = Operation(tag=MANAGEMENT, summary="Regions of shared memory: none.")
    leaving = Operation(tag=MANAGEMENT, summary="Forget regions of shared memory: there are none.")
    refused = Operation(tag=MANAGEMENT, summary="Refused: shared memory is not offered.")
    return {
        ("GET", f"{place}/status"): listing,
        ("GET", f"{place}/region/{{region}}/status"): listing,
        ("POST", f"{place}/unregister"): leaving,
        ("POST", f"{place}/region/{{region}}/unregister"): leaving,
        ("POST", f"{place}/region/{{region}}/register"): refused,
    }


def _settings(path: str, what: str) -> dict[tuple[str, str], Operation]:
    return {
        ("GET", path): Operation(tag=MANAGEMENT, summary=f"Settings of {what}."),
        ("POST", path): Operation(
            tag=MANAGEMENT, summary=f"Settings of {what}, which cannot be changed.", takes="Anything"
        ),
    }


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    **{(m, f"/v2/models/{{model}}{part}"): op for (m, part), op in _MODEL.items()},
    **{(m, f"/v2/models/{{model}}{_VERSION}{part}"): op for (m, part), op in _MODEL.items()},
    ("GET", "/v2"): Operation(tag=PROTOCOL, summary="Name, version and extensions of the server."),
    ("GET", "/v2/health/live"): Operation(tag=PROTOCOL, summary="Whether the server runs; needs no key."),
    ("GET", "/v2/health/ready"): Operation(
        tag=PROTOCOL, summary="Whether requests are taken: 503 where they are not; needs no key."
    ),
    ("POST", "/v1/embeddings"): Operation(
        tag=OPENAI,
        summary="Embeddings of unit length of texts and pictures, which share one space.",
        takes="EmbeddingsRequest",
        gives="EmbeddingsResponse",
        example={"model": "internvl-c", "input": ["a red kite", "data:image/png;base64,..."]},
    ),
    ("GET", "/v1/models"): Operation(tag=OPENAI, summary="The models of embeddings."),
    ("GET", "/v1/models/{model}"): Operation(tag=OPENAI, summary="One model of embeddings."),
    ("GET", "/v2/models/stats"): Operation(tag=WATCHING, summary="Triton's statistics of all models."),
    ("GET", "/metrics"): Operation(tag=WATCHING, summary="Figures for Prometheus.", media=TEXT),
    ("GET", "/"): Operation(tag=WATCHING, summary="The same figures as a page.", media=HTML),
    ("GET", "/docs"): Operation(tag=WATCHING, summary="This description as a page.", media=HTML),
    ("GET", "/openapi.json"): Operation(tag=WATCHING, summary="This description as an OpenAPI document."),
    ("POST", "/v2/repository/index"): Operation(
        tag=MANAGEMENT, summary="All models with their states.", takes="Anything"
    ),
    ("POST", "/v2/repository/models/{model}/load"): Operation(
        tag=MANAGEMENT, summary="Refused: the server keeps its bundle.", takes="Anything"
    ),
    ("POST", "/v2/repository/models/{model}/unload"): Operation(
        tag=MANAGEMENT, summary="Refused: the server keeps its bundle.", takes="Anything"
    ),
    **_memory("system"),
    **_memory("cuda"),
    **_settings("/v2/trace/setting", "Triton's own traces, which are off"),
    **_settings("/v2/models/{model}/trace/setting", "Triton's own traces of a model, which are off"),
    **_settings("/v2/logging", "logs"),
}
"""(method, path) -> what it does; a test holds the paths that are answered against it."""
