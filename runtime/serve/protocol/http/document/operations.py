"""The table of routes: the method, path, handler, summary and schemas of every operation.

The router, the OpenAPI document, the page `/docs` and admission control read it; a path is written nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from internvl_edge.runtime.serve.models import CHAT

PROTOCOL, MANAGEMENT, OPENAI, WATCHING = "Open Inference Protocol", "Triton's management", "OpenAI", "Watching"
JSON, TEXT, HTML, EVENTS, BYTES = (
    "application/json",
    "text/plain",
    "text/html",
    "text/event-stream",
    "application/octet-stream",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The description of one method of one path."""

    answer: str
    """Name of its handler in `handlers.HANDLERS`."""
    tag: str
    summary: str
    takes: str = ""
    """Name of the schema of its body; empty if it has no body."""
    gives: str = "Anything"
    """Name of the schema of its response in JSON."""
    media: str = JSON
    """Media type of its response."""
    example: Mapping[str, object] | None = None
    """Example of its body."""
    events: bool = False
    """Whether its response may also be server-sent events, where its body asks for them."""
    model: str = ""
    """Name of the served model that answers; empty where the path names it, or no single one does."""
    open: bool = False
    """Whether it needs no API key: health checks of orchestrators send none."""


HEADER_LENGTH = "inference-header-content-length"
"""Header with the number of bytes of JSON in front of binary tensors, as the protocol's binary extension names it."""
MODELS = "/v2/models/"
"""Prefix of the paths of one model."""
OPENAI_PATHS = "/v1/"
"""Prefix of the paths whose errors have OpenAI's form."""
_TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a red kite"]}
_MODEL: Mapping[tuple[str, str], Operation] = {
    ("GET", ""): Operation(
        answer="model", tag=PROTOCOL, summary="Names, types and shapes of a model.", gives="ModelMetadata"
    ),
    ("GET", "/ready"): Operation(
        answer="model_ready", tag=PROTOCOL, summary="Whether a model takes requests: 503 where it does not."
    ),
    ("GET", "/config"): Operation(
        answer="config", tag=PROTOCOL, summary="The part of Triton's model configuration that clients read."
    ),
    ("GET", "/stats"): Operation(
        answer="stats", tag=WATCHING, summary="Triton's statistics of a model: sums since the start."
    ),
    ("POST", "/infer"): Operation(
        answer="infer",
        tag=PROTOCOL,
        summary="Run a model on tensors, in JSON or as binary data behind it.",
        takes="InferRequest",
        gives="InferResponse",
        example={"inputs": [_TENSOR]},
    ),
    ("POST", "/generate"): Operation(
        answer="generate",
        tag=PROTOCOL,
        summary="Run a model on plain values: keys that name inputs are these, all others are parameters.",
        takes="Generate",
        gives="Generated",
        example={"text": "a red kite"},
    ),
    ("POST", "/generate_stream"): Operation(
        answer="generate_stream",
        tag=PROTOCOL,
        summary="The same, with each part of the answer as a server-sent event.",
        takes="Generate",
        media=EVENTS,
        example={"image": "data:image/png;base64,..."},
    ),
}
_VERSION = "/versions/{version}"


def _memory(kind: str) -> dict[tuple[str, str], Operation]:
    """Return the paths of one kind of shared memory, none of which is offered."""
    place = f"/v2/{kind}sharedmemory"
    listing = Operation(answer="regions", tag=MANAGEMENT, summary="Regions of shared memory: none.")
    leaving = Operation(answer="unregister", tag=MANAGEMENT, summary="Forget regions of shared memory: there are none.")
    refused = Operation(answer="register", tag=MANAGEMENT, summary="Refused: shared memory is not offered.")
    return {
        ("GET", f"{place}/status"): listing,
        ("GET", f"{place}/region/{{region}}/status"): listing,
        ("POST", f"{place}/unregister"): leaving,
        ("POST", f"{place}/region/{{region}}/unregister"): leaving,
        ("POST", f"{place}/region/{{region}}/register"): refused,
    }


def _settings(path: str, answer: str, what: str) -> dict[tuple[str, str], Operation]:
    return {
        ("GET", path): Operation(answer=answer, tag=MANAGEMENT, summary=f"Settings of {what}."),
        ("POST", path): Operation(
            answer=answer, tag=MANAGEMENT, summary=f"Settings of {what}, which cannot be changed.", takes="Anything"
        ),
    }


_LOAD = Operation(answer="load", tag=MANAGEMENT, summary="Refused: the server keeps its bundle.", takes="Anything")
OPERATIONS: Mapping[tuple[str, str], Operation] = {
    **{(m, f"{MODELS}{{model}}{part}"): op for (m, part), op in _MODEL.items()},
    **{(m, f"{MODELS}{{model}}{_VERSION}{part}"): op for (m, part), op in _MODEL.items()},
    ("GET", "/v2"): Operation(answer="server", tag=PROTOCOL, summary="Name, version and extensions of the server."),
    ("GET", "/v2/health/live"): Operation(
        answer="live", tag=PROTOCOL, summary="Whether the server runs; needs no key.", open=True
    ),
    ("GET", "/v2/health/ready"): Operation(
        answer="ready",
        tag=PROTOCOL,
        summary="Whether requests are taken: 503 where they are not; needs no key.",
        open=True,
    ),
    ("POST", "/v1/embeddings"): Operation(
        answer="embeddings",
        tag=OPENAI,
        summary="Embeddings of unit length of texts and pictures, which share one space.",
        takes="EmbeddingsRequest",
        gives="EmbeddingsResponse",
        example={"model": "internvl-c", "input": ["a red kite", "data:image/png;base64,..."]},
    ),
    ("POST", "/v1/chat/completions"): Operation(
        answer="chat",
        tag=OPENAI,
        summary="The next answer of a conversation about pictures; with stream true in chunks, as server-sent events.",
        takes="ChatRequest",
        gives="ChatCompletion",
        example={"model": "internvl-chat", "messages": [{"role": "user", "content": "What is a kite?"}]},
        events=True,
        model=CHAT,
    ),
    ("GET", "/v1/models"): Operation(
        answer="models", tag=OPENAI, summary="The models of embeddings and of chat completions."
    ),
    ("GET", "/v1/models/{model}"): Operation(answer="model_entry", tag=OPENAI, summary="One of these models."),
    ("GET", "/v2/models/stats"): Operation(
        answer="all_stats", tag=WATCHING, summary="Triton's statistics of all models."
    ),
    ("GET", "/metrics"): Operation(answer="metrics", tag=WATCHING, summary="Figures for Prometheus.", media=TEXT),
    ("GET", "/"): Operation(answer="page", tag=WATCHING, summary="The same figures as a page.", media=HTML),
    ("GET", "/docs"): Operation(answer="docs", tag=WATCHING, summary="This description as a page.", media=HTML),
    ("GET", "/openapi.json"): Operation(
        answer="openapi", tag=WATCHING, summary="This description as an OpenAPI document."
    ),
    ("POST", "/v2/repository/index"): Operation(
        answer="index", tag=MANAGEMENT, summary="All models with their states.", takes="Anything"
    ),
    ("POST", "/v2/repository/models/{model}/load"): _LOAD,
    ("POST", "/v2/repository/models/{model}/unload"): _LOAD,
    **_memory("system"),
    **_memory("cuda"),
    **_settings("/v2/trace/setting", "trace", "Triton's own traces, which are off"),
    **_settings("/v2/models/{model}/trace/setting", "trace", "Triton's own traces of a model, which are off"),
    **_settings("/v2/logging", "log", "logs"),
}
"""(method, path) -> its operation."""
PUBLIC = frozenset(path for (_, path), operation in OPERATIONS.items() if operation.open)
"""Paths that need no API key."""
INFERENCE_SUFFIXES = tuple(path for method, path in _MODEL if method == "POST")
"""Suffixes of the paths that run a model."""
