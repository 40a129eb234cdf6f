"""The protocol's `infer` in JSON, with tensors in the JSON or as binary data behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.responses import Response as HttpResponse

from internvl_edge.runtime.serve.protocol.binary_tensors import array_from_raw, object_array, raw_from_array
from internvl_edge.runtime.serve.protocol.checks import (
    VERSION,
    model_parameters,
    output_names,
    quoted,
    repeated_input,
    request_id,
    tensor_shape,
)
from internvl_edge.runtime.serve.protocol.http.body import json_object
from internvl_edge.runtime.serve.protocol.http.document.operations import HEADER_LENGTH
from internvl_edge.runtime.serve.protocol.http.responses import json_bytes
from internvl_edge.runtime.serve.protocol.json_tensors import array_from_list, flattened
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.requests import Parameter, Response
from internvl_edge.runtime.serve.signature import Signature

_SIZE = "binary_data_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The content of a request's body."""

    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...] | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    """Parameters of the model."""
    protocol_parameters: Mapping[str, Any] = field(default_factory=dict)
    """All parameters, those of the protocol included."""
    id: str = ""
    binary: Mapping[str, bool] = field(default_factory=dict)
    """Output -> whether it is sent as binary data, for outputs whose entry says so."""
    all_binary: bool = False
    """Whether all other outputs are sent as binary data."""


def asked(signature: Signature, body: bytes, header_length: str | None, json_limit: int) -> Asked:
    """Return the request of a body.

    Args:
        signature: Signature of the model that is asked.
        body: The whole body.
        header_length: Header with the number of bytes of JSON at its start; None: all of it is JSON.
        json_limit: Largest number of bytes of JSON.

    Raises:
        RefusalError: The body is no valid request of the model.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    if length == 0 and header_length is not None:
        return _one_element(signature, body)
    view = memoryview(body)
    content = json_object(view[:length], json_limit)
    parameters = _object(content, "parameters")
    outputs = _list(content, "outputs")
    return Asked(
        inputs=_inputs(_list(content, "inputs"), view[length:]),
        outputs=output_names(map(_name, outputs)),
        parameters=model_parameters(signature, parameters),
        protocol_parameters=parameters,
        id=request_id(content.get("id", "")),
        binary=dict(filter(None, map(_binary_output, outputs))),
        all_binary=_flag(parameters, "binary_data_output"),
    )


def answer(signature: Signature, request: Asked, response: Response) -> HttpResponse:
    """Return the response, with outputs in JSON or as binary data as the request asks."""
    outputs, raws = [], []
    for tensor in signature.outputs:
        if (array := response.outputs.get(tensor.name)) is None:
            continue
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape)}
        if request.binary.get(tensor.name, request.all_binary):
            raws.append(raw_from_array(array, tensor.datatype))
            entry["parameters"] = {_SIZE: len(raws[-1])}
        else:
            entry["data"] = flattened(tensor.name, tensor.datatype, array)
        outputs.append(entry)
    content = {"model_name": signature.name, "model_version": VERSION, "outputs": outputs}
    head = json_bytes({**content, "id": request.id} if request.id else content)
    if not raws:
        return HttpResponse(head, media_type="application/json")
    return HttpResponse(
        b"".join((head, *raws)), headers={HEADER_LENGTH: str(len(head))}, media_type="application/octet-stream"
    )


def _length(header: str, total: int) -> int:
    if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= total):
        raise BadRequestError(f"header {HEADER_LENGTH}: is a number of bytes up to the body's {total}")
    return int(header)


def _one_element(signature: Signature, body: bytes) -> Asked:
    """Return a request whose whole body is the one element of the model's one required input, such as a picture."""
    needed = [tensor for tensor in signature.inputs if not tensor.optional]
    if len(needed) != 1 or needed[0].datatype != "BYTES" or any(size not in (-1, 1) for size in needed[0].shape):
        raise BadRequestError(f"model {signature.name} takes no raw body; send JSON")
    return Asked(inputs={needed[0].name: object_array([body], (1,) * len(needed[0].shape))})


def _inputs(entries: list[dict[str, Any]], binary: memoryview) -> dict[str, np.ndarray]:
    inputs: dict[str, np.ndarray] = {}
    offset = 0
    for entry in entries:
        name = _name(entry)
        if name in inputs:
            raise repeated_input(name)
        size = _object(entry, "parameters").get(_SIZE)
        if size is None:
            inputs[name] = _listed(name, entry)
            continue
        if type(size) is not int or not 0 <= size <= len(binary) - offset or "data" in entry:
            raise BadRequestError(f"input {quoted(name)}: {_SIZE} {quoted(size)} does not fit what follows the JSON")
        shape = tensor_shape(name, entry.get("datatype"), entry.get("shape"))
        inputs[name] = array_from_raw(name, entry["datatype"], shape, binary[offset : offset + size])
        offset += size
    if offset != len(binary):
        raise BadRequestError(f"{len(binary) - offset} bytes follow the JSON that belong to no input")
    return inputs


def _listed(name: str, entry: dict[str, Any]) -> np.ndarray:
    shape = tensor_shape(name, entry.get("datatype"), entry.get("shape"))
    encoded = _encoded(name, _object(entry, "parameters"))
    return array_from_list(name, entry["datatype"], shape, entry.get("data"), encoded)


def _encoded(name: str, parameters: Mapping[str, Any]) -> bool:
    content = parameters.get("content_type", "str")
    if content not in ("str", "base64") or set(parameters) - {"content_type"}:
        raise BadRequestError(f"input {quoted(name)}: takes {_SIZE} and content_type, which is str or base64")
    return bool(content == "base64")


def _binary_output(entry: dict[str, Any]) -> tuple[str, bool] | None:
    parameters = _object(entry, "parameters")
    if more := set(parameters) - {"binary_data"}:
        raise BadRequestError(f"outputs: parameter {quoted(min(more))} is not known; there is binary_data")
    return (entry["name"], _flag(parameters, "binary_data")) if parameters else None


def _name(entry: dict[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise BadRequestError("inputs and outputs: each has a name")
    return name


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise BadRequestError(f"parameter {name}: is true or false")
    return value


def _object(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise BadRequestError(f"{key}: is an object")
    return value


def _list(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = content.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise BadRequestError(f"{key}: is a list of objects")
    return value
