"""Triton's `generate`: a JSON object of plain values in, and one out, or a stream of them."""

from math import prod
from typing import Any

import numpy as np

from internvl_edge.runtime.serve.protocol.checks import VERSION, model_parameters, quoted, request_id
from internvl_edge.runtime.serve.protocol.http.infer import Asked
from internvl_edge.runtime.serve.protocol.json_tensors import array_from_list, flattened
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.requests import Response
from internvl_edge.runtime.serve.signature import Signature, Tensor


def asked(signature: Signature, content: dict[str, Any]) -> Asked:
    """Return the request of a body: keys that name inputs hold tensors, all others are parameters.

    Raises:
        RefusalError: The body is no valid request of the model.
    """
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequestError("parameters: is an object")
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    inputs = {name: _array(tensors[name], value) for name, value in content.items() if name in tensors}
    others = {name: value for name, value in content.items() if name not in {*tensors, "id", "parameters"}}
    if twice := sorted(set(parameters) & set(others)):
        raise BadRequestError(f"parameter {', '.join(map(quoted, twice))}: is given beside parameters and in it")
    return Asked(
        inputs=inputs,
        parameters=model_parameters(signature, {**parameters, **others}),
        protocol_parameters={**parameters, **others},
        id=request_id(content.get("id", "")),
    )


def answer(signature: Signature, request: Asked, response: Response) -> dict[str, Any]:
    """Return a response, or one part of it, as a JSON object; a tensor of one element becomes that element."""
    content: dict[str, Any] = {"model_name": signature.name, "model_version": VERSION}
    if request.id:
        content["id"] = request.id
    types = {tensor.name: tensor.datatype for tensor in signature.outputs}
    for name, array in response.outputs.items():
        if name in content:
            raise BadRequestError(f"output {name}: has the name of another field here; ask for it with infer")
        values = flattened(name, types[name], array)
        content[name] = values[0] if len(values) == 1 else values
    return content


def _array(tensor: Tensor, value: Any) -> np.ndarray:
    """Return the tensor of `value`; the size of its first free axis follows from the number of elements."""
    values = value if isinstance(value, list) else [value]
    sizes = [max(size, 1) for size in tensor.shape]
    if -1 in tensor.shape:
        sizes[tensor.shape.index(-1)] = len(values) // prod(sizes)
    shape = tuple(sizes)
    return array_from_list(tensor.name, tensor.datatype, shape, values)
