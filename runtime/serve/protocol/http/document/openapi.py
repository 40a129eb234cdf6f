"""The OpenAPI document of all paths, for tools and generators of clients."""

import re
from collections.abc import Mapping
from typing import Any

from internvl_edge.runtime.serve.protocol.http.document.operations import (
    BYTES,
    EVENTS,
    HEADER_LENGTH,
    JSON,
    OPENAI,
    OPENAI_PATHS,
    OPERATIONS,
    PUBLIC,
    Operation,
)
from internvl_edge.runtime.serve.protocol.http.document.schemas import SCHEMAS, reference
from internvl_edge.runtime.serve.protocol.openai_models import openai_models
from internvl_edge.runtime.serve.signature import Signature

_REFUSALS: Mapping[str, str] = {
    "400": "The request is not understood, or does not fit the model.",
    "401": "No API key, or another.",
    "404": "There is no such model, version or path.",
    "413": "The body, a picture or a text is beyond its limit.",
    "429": "The queue is full; Retry-After says when to try again.",
    "500": "The model or the server failed.",
    "503": "The server starts, restarts a worker or stops.",
    "504": "The answer would come too late.",
}
_JSON_LENGTH: Mapping[str, Any] = {
    "name": HEADER_LENGTH,
    "in": "header",
    "required": False,
    "description": "Bytes of JSON in front of binary data; 0: the whole body is the one element of the one input.",
    "schema": {"type": "integer", "minimum": 0},
}
_WORDS: Mapping[str, str] = {
    "version": "There is one version, 1.",
    "region": "Name of a region of shared memory.",
}


def openapi(signatures: Mapping[str, Signature], version: str, keys: bool) -> dict[str, Any]:
    """Return the document of a server with these models; `keys` says whether requests need an API key."""
    paths: dict[str, Any] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation, signatures)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "internvl-edge",
            "version": version,
            "description": "InternVL behind the Open Inference Protocol v2, Triton's generate, OpenAI's embeddings and"
            " chat completions.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}] if keys else [],
    }


def model_words(signature: Signature) -> str:
    """Return the inputs and outputs of a model as one line."""
    takes, gives = (
        ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in tensors)
        for tensors in (signature.inputs, signature.outputs)
    )
    return f"{takes} -> {gives}"


def _operation(method: str, path: str, operation: Operation, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    schema = reference("OpenAIError" if path.startswith(OPENAI_PATHS) else "Error")
    refused = {code: {"description": words, "content": {JSON: {"schema": schema}}} for code, words in _REFUSALS.items()}
    given = {operation.media: {"schema": reference(operation.gives)} if operation.media == JSON else {}}
    if operation.events:
        given[EVENTS] = {}
    described: dict[str, Any] = {
        "operationId": _identity(method, path),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [_parameter(name, operation, signatures) for name in re.findall(r"{(\w+)}", path)],
        "responses": {"200": {"description": "The answer.", "content": given}, **refused},
    }
    if path in PUBLIC:
        described["security"] = []
    if operation.takes:
        body: dict[str, Any] = {"schema": reference(operation.takes)}
        if operation.example is not None:
            body["example"] = operation.example
        bodies = {JSON: body}
        if operation.takes == "InferRequest":
            bodies[BYTES] = {}
            described["parameters"].append(_JSON_LENGTH)
        described["requestBody"] = {"required": operation.takes != "Anything", "content": bodies}
    return described


def _parameter(name: str, operation: Operation, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    words = _WORDS.get(name, "")
    if name == "model":
        names = list(openai_models(signatures)) if operation.tag == OPENAI else list(signatures)
        schema = {"type": "string", "enum": names} if names else schema
        words = "" if operation.tag == OPENAI else "; ".join(f"{n}: {model_words(s)}" for n, s in signatures.items())
    return {"name": name, "in": "path", "required": True, "description": words, "schema": schema}


def _identity(method: str, path: str) -> str:
    words = re.sub(r"\W+", "_", path).strip("_")
    return f"{method.lower()}_{words}" if words else method.lower()
