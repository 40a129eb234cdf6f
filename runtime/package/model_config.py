"""Triton's `config.pbtxt`: inputs, outputs, batching, instances and warm-up of a model as protobuf text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_edge.runtime.serve.signature import DATATYPES, Signature, Tensor


@dataclass(frozen=True, slots=True)
class EnumValue:
    """The name of an enumeration's value, which protobuf text writes without quotes."""

    name: str


def config_text(fields: Mapping[str, Any]) -> str:
    """Return a message as protobuf text; mappings become messages, lists become repeated fields."""
    return "\n".join(_lines(fields)) + "\n"


def tensors(signature: Signature, *, batched: bool) -> dict[str, Any]:
    """Return the fields `input` and `output`; with `batched`, shapes lack axis 0, which counts rows."""
    return {
        "input": [_tensor(tensor, batched) for tensor in signature.inputs],
        "output": [_tensor(tensor, batched) for tensor in signature.outputs],
    }


def data_type(dtype: np.dtype[Any]) -> EnumValue:
    """Return Triton's name of a NumPy type."""
    return _type(next(name for name, numpy_type in DATATYPES.items() if numpy_type == dtype))


def batching(max_delay_ms: float) -> dict[str, Any]:
    """Return the field `dynamic_batching`: a request waits so long for others of equal shapes."""
    return {"dynamic_batching": {"max_queue_delay_microseconds": round(max_delay_ms * 1000)}}


def instances(count: int, device: str, gpus: Sequence[int] = ()) -> dict[str, Any]:
    """Return the field `instance_group`; `device` is ``auto``, ``cpu`` or ``gpu``."""
    where = {"gpus": list(gpus)} if gpus else {}
    return {"instance_group": [{"count": count, "kind": EnumValue(f"KIND_{device.upper()}"), **where}]}


def parameters(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the field `parameters`, which a model of the Python backend reads."""
    return {"parameters": [{"key": key, "value": {"string_value": value}} for key, value in values.items()]}


def _tensor(tensor: Tensor, batched: bool) -> dict[str, Any]:
    optional = {"optional": True} if tensor.optional else {}
    dims = list(tensor.shape[1:] if batched else tensor.shape)
    return {"name": tensor.name, "data_type": _type(tensor.datatype), "dims": dims, **optional}


def _type(datatype: str) -> EnumValue:
    return EnumValue(f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}")


def _lines(fields: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in fields.items():
        messages = [value] if isinstance(value, Mapping) else value
        if not isinstance(value, Mapping) and not _are_messages(value):
            yield f"{indent}{name}: {_scalar(value)}"
            continue
        for message in messages:
            yield f"{indent}{name} {{"
            yield from _lines(message, indent + "  ")
            yield f"{indent}}}"


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return value.name if isinstance(value, EnumValue) else json.dumps(value, ensure_ascii=False)
