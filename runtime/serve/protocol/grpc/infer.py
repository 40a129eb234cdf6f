"""Conversion between the messages of `ModelInfer` and arrays."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from internvl_edge.runtime.serve.protocol.binary_tensors import array_from_raw, object_array, raw_from_array
from internvl_edge.runtime.serve.protocol.checks import (
    VERSION,
    out_of_range,
    output_names,
    quoted,
    repeated_input,
    require_count,
    tensor_shape,
)
from internvl_edge.runtime.serve.protocol.grpc.messages import message
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.requests import Response
from internvl_edge.runtime.serve.signature import DATATYPES, Signature

_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT8": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> field of `contents` with its elements; FP16 and BF16 have none and are sent as raw bytes."""


_SIZE = "binary_data_size"


def parameters_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as plain values."""
    return {name: getattr(entry, entry.WhichOneof("parameter_choice") or "", None) for name, entry in entries.items()}


def inputs_of(request: Any) -> dict[str, np.ndarray]:
    """Return the tensors of a request.

    Raises:
        BadRequestError: A tensor does not fit its datatype and shape, or is given twice.
    """
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise BadRequestError(f"raw_input_contents: has {len(raws)} entries for {len(request.inputs)} inputs")
    inputs: dict[str, np.ndarray] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in inputs:
            raise repeated_input(tensor.name)
        _require_size(tensor, len(raws[index]) if raws else None)
        shape = tensor_shape(tensor.name, tensor.datatype, list(tensor.shape))
        if raws and tensor.HasField("contents"):
            raise BadRequestError(f"input {quoted(tensor.name)}: has contents beside raw_input_contents")
        inputs[tensor.name] = (
            array_from_raw(tensor.name, tensor.datatype, shape, raws[index])
            if raws
            else _array_from_contents(tensor, shape)
        )
    return inputs


def _require_size(tensor: Any, raw_bytes: int | None) -> None:
    """Check the parameters of an input: KServe's SDK sends the number of bytes, and no other is allowed.

    Raises:
        BadRequestError: The number of bytes is wrong, or there are other parameters.
    """
    parameters = parameters_of(tensor.parameters)
    size = parameters.pop(_SIZE, None)
    if parameters:
        listed = ", ".join(map(quoted, parameters))
        raise BadRequestError(
            f"input {quoted(tensor.name)}: parameter {listed} is not known; shared memory is not offered"
        )
    if size is not None and (type(size) is not int or size != raw_bytes):
        found = "none in raw_input_contents" if raw_bytes is None else str(raw_bytes)
        raise BadRequestError(f"input {quoted(tensor.name)}: {_SIZE} is {quoted(size)}, the bytes are {found}")


def outputs_of(request: Any) -> tuple[str, ...] | None:
    """Return the names of the outputs that a request wants, or None for all.

    Raises:
        BadRequestError: An output is wanted in a form that is not offered.
    """
    for output in request.outputs:
        if set(output.parameters) - {"binary_data"}:
            raise BadRequestError(f"output {quoted(output.name)}: classification and shared memory are not offered")
    return output_names(output.name for output in request.outputs)


def response_message(signature: Signature, request_id: str, response: Response, *, part: bool = False) -> Any:
    """Return the message of a response; a `part` of a stream also says whether it is the last one."""
    content = message("ModelInferResponse")(model_name=signature.name, model_version=VERSION, id=request_id)
    if part:
        content.parameters["triton_final_response"].bool_param = response.final
    for tensor in _given(signature, response):
        array = response.outputs[tensor.name]
        content.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        content.raw_output_contents.append(raw_from_array(array, tensor.datatype))
    return content


def _given(signature: Signature, response: Response) -> Iterable[Any]:
    return (tensor for tensor in signature.outputs if tensor.name in response.outputs)


def _array_from_contents(tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
    field = _FIELDS.get(tensor.datatype)
    if field is None:
        raise BadRequestError(f"input {quoted(tensor.name)}: {tensor.datatype} is sent in raw_input_contents")
    if others := [entry.name for entry, _ in tensor.contents.ListFields() if entry.name != field]:
        raise BadRequestError(f"input {quoted(tensor.name)}: {tensor.datatype} is in {field}, got {others[0]}")
    values = getattr(tensor.contents, field)
    require_count(tensor.name, shape, len(values))
    if tensor.datatype == "BYTES":
        return object_array(list(values), shape)
    wide = np.array(values)
    array = wide.astype(DATATYPES[tensor.datatype])
    if array.dtype.kind in "iu" and not np.array_equal(array, wide):
        raise out_of_range(tensor.name, tensor.datatype)
    return array.reshape(shape)
