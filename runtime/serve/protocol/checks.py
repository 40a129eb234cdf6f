"""What the protocols themselves demand of a request; whether it fits its model is for the engine to say."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

import numpy as np

from internvl_edge.runtime.serve.refusals import BadRequestError, UnknownModelError
from internvl_edge.runtime.serve.requests import Parameter
from internvl_edge.runtime.serve.signature import DATATYPES, Signature

VERSION = "1"
"""A bundle is served in one version."""
FINAL = "triton_enable_empty_final_response"
"""Asks for a mark on the last part of a stream, which every part bears here anyway."""
_PROTOCOL = ("timeout", "priority", "binary_data_output", FINAL)
"""Parameters that are no model's. Turns are dealt between clients, so that a priority changes nothing."""
_FLAGS = ("binary_data_output", FINAL)
_FOR_ALL = ("labels", "templates")
"""Inputs that are one for all rows, whose texts are computed besides."""
_LONGEST_WAIT_S = 24 * 3600.0
_LONGEST_ID = 256
_MOST_AXES = 16
_QUOTED = 80


def served(signatures: Mapping[str, Signature], name: str, version: str) -> Signature:
    """Return the model of this name and version; an empty version is the only one there is.

    Raises:
        UnknownModelError: there is no such model or version.
    """
    if name not in signatures:
        raise UnknownModelError(f"model {quoted(name)} is not served; there are {', '.join(signatures)}")
    if version not in ("", VERSION):
        raise UnknownModelError(f"model {name} has no version {quoted(version)}; there is {VERSION}")
    return signatures[name]


def tensor_shape(name: str, datatype: Any, shape: Any) -> tuple[int, ...]:
    """Return the shape of an input whose type and shape the protocol knows.

    Raises:
        BadRequestError: it does not.
    """
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequestError(f"input {quoted(name)}: datatype {quoted(datatype)} is none of {', '.join(DATATYPES)}")
    fits = isinstance(shape, (list, tuple)) and 1 <= len(shape) <= _MOST_AXES
    if not fits or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise BadRequestError(f"input {quoted(name)}: shape {quoted(shape)} is no list of sizes")
    return tuple(shape)


def output_names(names: Iterable[str]) -> tuple[str, ...] | None:
    """Return the outputs that a request names; None, that is all, where it names none.

    Raises:
        BadRequestError: one is named twice, and would be given once.
    """
    wanted = tuple(names)
    if twice := sorted(name for name, count in Counter(wanted).items() if count > 1):
        raise BadRequestError(f"output {', '.join(map(quoted, twice))}: is asked for twice")
    return wanted or None


def model_parameters(signature: Signature, parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the parameters that are meant for the model.

    Raises:
        BadRequestError: one is not known, or no plain value; one of the protocol's is of another type than its own.
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
    """Return the client's name of its request.

    Raises:
        BadRequestError: it is no short text.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_ID or not name.isprintable():
        raise BadRequestError(f"id: is a string of up to {_LONGEST_ID} printable characters")
    return name


def deadline_of(parameters: Mapping[str, Any], usual_s: float, remaining_s: float | None = None) -> float:
    """Return when the answer is of no more use, on the clock of `time.monotonic`.

    Args:
        parameters: of the request; `timeout` counts microseconds, and 0 is as good as none.
        usual_s: for a request that says nothing.
        remaining_s: what the transport says that is left.

    Raises:
        BadRequestError: the timeout is no whole number from 0.
    """
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise BadRequestError("parameter timeout: is a whole number of microseconds")
    asked = [timeout / 1e6] if 0 < timeout < _LONGEST_WAIT_S * 1e6 else [_LONGEST_WAIT_S] if timeout else []
    if remaining_s is not None:
        asked.append(min(remaining_s, _LONGEST_WAIT_S))
    return time.monotonic() + min(asked, default=usual_s)


def batches_of(inputs: Mapping[str, np.ndarray], max_batch: int) -> int:
    """Return how many full batches a request is: so many times a request that sets no deadline has the usual one."""
    rows = max((len(v) for name, v in inputs.items() if v.ndim and name not in _FOR_ALL), default=1)
    texts = len(inputs.get("labels", ())) * len(inputs.get("templates", (b"",)))
    return max(ceil((rows + texts) / max_batch), 1)


def quoted(found: Any) -> str:
    """Return what a client sent as a short word of an error's one line."""
    text = repr(found)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."
