"""The JSON Schemas of requests' and responses' bodies."""

from collections.abc import Mapping
from typing import Any

from internvl_edge.runtime.serve.protocol.http.document.openai_schemas import (
    CHAT_COMPLETION,
    CHAT_FIELDS,
    EMBEDDINGS_FIELDS,
)
from internvl_edge.runtime.serve.signature import DATATYPES

Schema = dict[str, Any]


def reference(name: str) -> Schema:
    """Return a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema], required: tuple[str, ...] = (), more: bool = False) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": more,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


_NAMED: dict[str, Schema] = {
    "name": {"type": "string"},
    "datatype": {"enum": list(DATATYPES)},
    "shape": _list({"type": "integer"}),
}
_TENSOR = _object(
    {
        **_NAMED,
        "data": {"type": "array", "description": "Its elements, flat or nested as the shape."},
        "parameters": _object(
            {
                "binary_data_size": {"type": "integer", "description": "Its bytes behind the JSON, in place of data."},
                "content_type": {"enum": ["str", "base64"], "description": "What strings of BYTES are."},
            }
        ),
    },
    ("name", "datatype", "shape"),
)
_WANTED = _object({"name": {"type": "string"}, "parameters": _object({"binary_data": {"type": "boolean"}})}, ("name",))
_PARAMETERS: Schema = {
    "type": "object",
    "description": "Parameters of the model, and timeout in microseconds.",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
_REASON = _text("Why there is no answer, in one sentence.")
SCHEMAS: Mapping[str, Schema] = {
    "Anything": {},
    "Error": _object({"error": _REASON}, ("error",)),
    "OpenAIError": _object(
        {
            "error": _object(
                {
                    "message": _REASON,
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"], "description": "Field that is at fault."},
                    "code": {"type": ["string", "null"]},
                },
                ("message", "type", "param", "code"),
            )
        },
        ("error",),
    ),
    "InferRequest": _object(
        {
            "id": {"type": "string"},
            "parameters": _PARAMETERS,
            "inputs": _list(_TENSOR),
            "outputs": _list(_WANTED),
        },
        ("inputs",),
        more=True,
    ),
    "InferResponse": _object(
        {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": _list(_TENSOR),
        },
        ("model_name", "model_version", "outputs"),
    ),
    "Generate": _object(
        {"id": {"type": "string"}, "parameters": _PARAMETERS},
        more=True,
    ),
    "Generated": _object(
        {"model_name": {"type": "string"}, "model_version": {"type": "string"}, "id": {"type": "string"}},
        ("model_name", "model_version"),
        more=True,
    ),
    "ModelMetadata": _object(
        {
            "name": {"type": "string"},
            "versions": _list({"type": "string"}),
            "platform": {"type": "string"},
            "inputs": _list(_object(_NAMED, tuple(_NAMED))),
            "outputs": _list(_object(_NAMED, tuple(_NAMED))),
        },
        ("name", "versions", "platform", "inputs", "outputs"),
    ),
    "EmbeddingsRequest": _object(EMBEDDINGS_FIELDS, ("model", "input")),
    "EmbeddingsResponse": _object(
        {
            "object": {"const": "list"},
            "model": {"type": "string"},
            "data": _list(
                _object(
                    {
                        "object": {"const": "embedding"},
                        "index": {"type": "integer"},
                        "embedding": {"oneOf": [_list({"type": "number"}), {"type": "string"}]},
                    },
                    ("object", "index", "embedding"),
                )
            ),
            "usage": _object({"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}}),
        },
        ("object", "model", "data", "usage"),
    ),
    "ChatRequest": _object(CHAT_FIELDS, ("model", "messages"), more=True),
    "ChatCompletion": CHAT_COMPLETION,
}
"""Name of a schema -> schema."""
