"""Checks of a request that the protocol defines; the engine checks whether the request fits its model."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil, prod
from typing import Any

import numpy as np

from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.refusals import BadRequestError, UnknownModelError
from internvl_edge.runtime.serve.requests import Parameter
from internvl_edge.runtime.serve.signature import DATATYPES, Signature

VERSION = "1"
"""The one version of every model."""
HALF_SURROGATE = "holds half of a surrogate pair, which is no text"
"""End of the error for a text that JSON can escape and UTF-8 cannot encode."""
FINAL = "triton_enable_empty_final_response"
"""Triton's parameter that asks for a mark on the last part of a stream; here every part has the mark."""
_PROTOCOL = ("timeout", "priority", "binary_data_output", FINAL)
"""Parameters of the protocol, not of a model. A priority has no effect, since the queue is shared by clients."""
_FLAGS = ("binary_data_output", FINAL)
_FOR_ALL = ("labels", "templates")
"""Inputs that all rows share; their texts are computed besides the rows."""
_LONGEST_WAIT_S = 24 * 3600.0
_LONGEST_ID = 256
_MOST_AXES = 16
_QUOTED = 80


def served(signatures: Mapping[str, Signature], name: str, version: str) -> Signature:
    """Return the signature of a model by name and version; an empty version means the only one.

    Raises:
        UnknownModelError: There is no such model or version.
    """
    if name not in signatures:
        raise UnknownModelError(f"model {quoted(name)} is not served; there are {', '.join(signatures)}")
    if version not in ("", VERSION):
        raise UnknownModelError(f"model {name} has no version {quoted(version)}; there is {VERSION}")
    return signatures[name]


def tensor_shape(name: str, datatype: Any, shape: Any) -> tuple[int, ...]:
    """Return the shape of an input after checking that the protocol allows its datatype and shape.

    Raises:
        BadRequestError: The datatype is not known, or the shape is no list of sizes.
    """
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequestError(f"input {quoted(name)}: datatype {quoted(datatype)} is none of {', '.join(DATATYPES)}")
    fits = isinstance(shape, (list, tuple)) and 1 <= len(shape) <= _MOST_AXES
    if not fits or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise BadRequestError(f"input {quoted(name)}: shape {quoted(shape)} is no list of sizes")
    return tuple(shape)


def require_count(name: str, shape: tuple[int, ...], found: int) -> None:
    """Check that the number of an input's elements fits its shape.

    Raises:
        BadRequestError: It does not.
    """
    if found != prod(shape):
        raise BadRequestError(f"input {quoted(name)}: shape {list(shape)} has {prod(shape)} elements, got {found}")


def out_of_range(name: str, datatype: str) -> BadRequestError:
    """Return the error for an input with a number that its datatype cannot hold."""
    return BadRequestError(f"input {quoted(name)}: a number is beyond {datatype}")


def repeated_input(name: str) -> BadRequestError:
    """Return the error for an input that a request holds twice."""
    return BadRequestError(f"input {quoted(name)}: is given twice")


def output_names(names: Iterable[str]) -> tuple[str, ...] | None:
    """Return the outputs that a request names, or None, which means all, if it names none.

    Raises:
        BadRequestError: An output is named twice; it would be returned once.
    """
    wanted = tuple(names)
    if twice := sorted(name for name, count in Counter(wanted).items() if count > 1):
        raise BadRequestError(f"output {', '.join(map(quoted, twice))}: is asked for twice")
    return wanted or None


def model_parameters(signature: Signature, parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the parameters of the model, without those of the protocol.

    Raises:
        BadRequestError: A parameter is not known, is no plain value, or has the wrong type.
    """
    priority = parameters.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise BadRequestError("parameter priority: is a whole number from 0")
    if odd := [name for name in _FLAGS if not isinstance(parameters.get(name, False), bool)]:
        raise BadRequestError(f"parameter {', '.join(odd)}: is true or false")
    meant = {name: value for name, value in parameters.items() if name not in _PROTOCOL}
    for name, value in meant.items():
        if name not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise BadRequestError(f"model {signature.name} has no parameter {quoted(name)}; it knows {known}")
        if not isinstance(value, (str, int, float, bool)):
            raise BadRequestError(f"parameter {name}: is a string, a number or true or false")
    return meant


def request_id(name: Any) -> str:
    """Return the client's identifier of its request.

    Raises:
        BadRequestError: It is no string, too long or not printable.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_ID or not name.isprintable():
        raise BadRequestError(f"id: is a string of up to {_LONGEST_ID} printable characters")
    return name


def deadline_of(parameters: Mapping[str, Any], usual_s: float, remaining_s: float | None = None) -> float:
    """Return the deadline of a request, on the clock of `time.monotonic`.

    Args:
        parameters: Parameters of the request; `timeout` is in microseconds, and 0 counts as not set.
        usual_s: Seconds to the deadline of a request that sets none.
        remaining_s: Seconds to the deadline that the transport carries, as gRPC's; None: it carries none.

    Raises:
        BadRequestError: The timeout is no whole number from 0.
    """
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise BadRequestError("parameter timeout: is a whole number of microseconds")
    asked = [timeout / 1e6] if 0 < timeout < _LONGEST_WAIT_S * 1e6 else [_LONGEST_WAIT_S] if timeout else []
    if remaining_s is not None:
        asked.append(min(remaining_s, _LONGEST_WAIT_S))
    return time.monotonic() + min(asked, default=usual_s)


def usual_seconds(signature: Signature, inputs: Mapping[str, np.ndarray], options: ProtocolOptions) -> float:
    """Return the seconds to the deadline of a request that sets none."""
    if signature.answers is not None:
        return options.answer_s
    return options.deadline_s * batches_of(inputs, options.max_batch)


def batches_of(inputs: Mapping[str, np.ndarray], max_batch: int) -> int:
    """Return the number of full batches of a request: its default deadline is multiplied by it."""
    rows = max((len(v) for name, v in inputs.items() if v.ndim and name not in _FOR_ALL), default=1)
    texts = len(inputs.get("labels", ())) * len(inputs.get("templates", (b"",)))
    return max(ceil((rows + texts) / max_batch), 1)


def quoted(found: Any) -> str:
    """Return the `repr` of a value that a client sent, shortened for an error message."""
    text = repr(found)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."
