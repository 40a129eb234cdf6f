"""Triton's `generate`: a JSON object of plain values in, and one out, or a stream of them."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from math import prod
from typing import Any, cast

import numpy as np
from starlette.types import Receive, Scope, Send

from internvl_edge.runtime.serve.protocol.checks import VERSION, model_parameters, quoted, request_id
from internvl_edge.runtime.serve.protocol.http.disconnect import cancel_on_disconnect
from internvl_edge.runtime.serve.protocol.http.infer import Asked
from internvl_edge.runtime.serve.protocol.http.responses import json_bytes
from internvl_edge.runtime.serve.protocol.json_tensors import array_from_list, flattened
from internvl_edge.runtime.serve.refusals import BadRequestError, RefusalError
from internvl_edge.runtime.serve.requests import Response
from internvl_edge.runtime.serve.signature import Signature, Tensor

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


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


class EventStream:
    """A response of server-sent events, one for each part; a refusal after the first part is the last event."""

    def __init__(
        self,
        parts: AsyncIterator[Response],
        render: Callable[[Response], dict[str, Any]],
        refused: Callable[[Exception], RefusalError],
    ) -> None:
        self._parts = parts
        self._render = render
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts as they come; an error before the first part is raised."""
        await cancel_on_disconnect(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with aclosing(cast("AsyncGenerator[Response, None]", self._parts)) as parts:
            event = _event(self._render(await anext(parts)))
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": event, "more_body": True})
            try:
                async for part in parts:
                    await send({"type": "http.response.body", "body": _event(self._render(part)), "more_body": True})
            except Exception as error:
                last = _event({"error": str(self._refused(error))})
                await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(content: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json_bytes(content)


def _array(tensor: Tensor, value: Any) -> np.ndarray:
    """Return the tensor of `value`; the size of its first free axis follows from the number of elements."""
    values = value if isinstance(value, list) else [value]
    sizes = [max(size, 1) for size in tensor.shape]
    if -1 in tensor.shape:
        sizes[tensor.shape.index(-1)] = len(values) // prod(sizes)
    shape = tuple(sizes)
    return array_from_list(tensor.name, tensor.datatype, shape, values)
