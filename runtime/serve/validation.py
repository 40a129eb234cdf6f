"""Checks of a request against its model's signature and the server's limits, before any work is done for it."""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from internvl_edge.runtime.bundle.manifest import ModelInfo
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.sniff import HEAD_BYTES, picture_format
from internvl_edge.runtime.inputs.pictures.picture_text import encoded_picture, picture_in_text
from internvl_edge.runtime.serve.models import ServedModel
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import CONTEXT_CODE, BadRequestError, TooLargeError
from internvl_edge.runtime.serve.requests import Request
from internvl_edge.runtime.serve.signature import DATATYPES, Tensor

_SHOWN = 80
"""Largest number of characters of a client's own text that an error message repeats."""
_DATATYPES = {dtype: name for name, dtype in DATATYPES.items()}
_TOKEN_BYTES = 32
"""Bytes of a token that a text of a conversation may have on average: in a real text it has about 4."""
_NAMED = 5
"""Largest number of findings that one error message names."""
_LITERAL = ("history", "system", "stop")
"""Inputs whose texts may say anything: an answer that is repeated may be an address."""
_LONGEST_NORMALIZED = 256
"""Longest label, in characters, that is normalized before labels are compared.

The time of Unicode's NFKC grows with the square of the number of combining marks behind one another."""


def validated_request(request: Request, served: ServedModel, model: ModelInfo, options: ServeOptions) -> Request:
    """Check a request, and return it with its pictures as bytes, however they were sent.

    Raises:
        BadRequestError: The request does not fit the signature; the message names what is wrong.
        TooLargeError: The request has more rows, or a longer text, than the limits allow; texts of a conversation are
            bad requests when the context cannot hold them.
    """
    for findings in (_names, _tensors, _rows):  # each check relies on those before it
        _refuse(request, list(findings(request, served)))
    _require_counts(request, served, options)
    for findings in (_texts, _labels, _turns):
        _refuse(request, list(findings(request, served)))
    _require_short_texts(request, served, options)
    _refuse(request, [*_ids(request, model), *_parameters(request, served)])
    return _with_pictures(request)


def _refuse(request: Request, findings: list[str]) -> None:
    if findings:
        more = f" and {len(findings) - _NAMED} more" if len(findings) > _NAMED else ""
        raise BadRequestError(f"{request.model}: {'; '.join(findings[:_NAMED])}{more}")


def _names(request: Request, served: ServedModel) -> Iterator[str]:
    signature = served.signature
    takes, gives = ([tensor.name for tensor in tensors] for tensors in (signature.inputs, signature.outputs))
    for tensor in signature.inputs:
        if not tensor.optional and tensor.name not in request.inputs:
            yield f"input {tensor.name} is missing"
    yield from (f"there is no input {_shown(name)}" for name in request.inputs if name not in takes)
    yield from (f"there is no output {_shown(name)}" for name in request.outputs or () if name not in gives)


def _tensors(request: Request, served: ServedModel) -> Iterator[str]:
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in served.signature.inputs:
        if tensor.name in request.inputs:
            values = request.inputs[tensor.name]
            yield from _misfits(tensor, values)
            yield from _unequal(values, tensor.name, served.axes.get(tensor.name, ()), sizes)


def _misfits(tensor: Tensor, values: np.ndarray) -> Iterator[str]:
    if values.dtype != DATATYPES[tensor.datatype]:
        yield f"{tensor.name} is {_DATATYPES.get(values.dtype, values.dtype)} instead of {tensor.datatype}"
    elif values.dtype == np.object_ and not all(type(value) is bytes for value in values.flat):
        yield f"{tensor.name} holds other values than BYTES"
    if len(values.shape) != len(tensor.shape) or any(
        size not in (-1, found) for found, size in zip(values.shape, tensor.shape, strict=True)
    ):
        yield f"{tensor.name} has shape {list(values.shape)} instead of {list(tensor.shape)}"
    elif values.size == 0 and not tensor.name.startswith("past_key_values."):
        yield f"{tensor.name} has shape {list(values.shape)}, of which nothing can be computed"


def _unequal(
    values: np.ndarray, name: str, axes: tuple[int | str, ...], sizes: dict[str, tuple[int, str]]
) -> Iterator[str]:
    """Yield a finding for each axis name that has two different sizes."""
    for found, axis in zip(values.shape, axes, strict=False):
        if isinstance(axis, str):
            size, first = sizes.setdefault(axis, (found, name))
            if found != size:
                yield f"axis {axis} is {found} in {name} but {size} in {first}"


def _rows(request: Request, served: ServedModel) -> Iterator[str]:
    if len({len(request.inputs[name]) for name in served.row_inputs}) > 1:
        yield f"{', '.join(served.row_inputs)} differ in axis 0"


def _texts(request: Request, served: ServedModel) -> Iterator[str]:
    for tensor in served.signature.inputs:
        if tensor.datatype == "BYTES" and tensor.name != "image" and tensor.name in request.inputs:
            wrong: Callable[[str], bool] = _FINDINGS.get(tensor.name, _is_empty)
            for index, value in enumerate(request.inputs[tensor.name].flat):
                text = _text(value)
                kind = picture_format(value[:HEAD_BYTES])
                if kind not in (None, "PPM") and (text is None or "\0" in text):  # "GIF89a is a format" has none
                    yield f"{tensor.name} {index} is a {kind} picture and no text"
                elif text is None:
                    yield f"{tensor.name} {index} is not UTF-8"
                elif tensor.name not in _LITERAL and (finding := _picture_in(text)) is not None:
                    yield f"{tensor.name} {index} {finding}"
                elif wrong(text):
                    yield f"{tensor.name} {index} is empty" if _is_empty(text) else f"{tensor.name} {index} lacks {{}}"


def _labels(request: Request, served: ServedModel) -> Iterator[str]:
    """Yield a finding for each repeated label: the repetitions would share the probability of one label."""
    first: dict[str, int] = {}
    for index, value in enumerate(request.inputs.get("labels", ())):
        text = " ".join(value.decode().split())
        if len(text) <= _LONGEST_NORMALIZED:
            text = " ".join(unicodedata.normalize("NFKC", text).split())
        earlier = first.setdefault(text, index)
        if earlier != index:
            yield f"labels {index} is the same as labels {earlier}"


def _turns(request: Request, served: ServedModel) -> Iterator[str]:
    """Yield a finding for pictures of a conversation that belong to no turn of it, or exceed its context."""
    limits = served.signature.answers
    if limits is None:
        return
    pictures, turns = (request.inputs.get(name, np.empty(0, np.int64)) for name in ("image", "image_turns"))
    last = len(request.inputs.get("history", ()))
    if "image_turns" in request.inputs:
        if len(turns) != len(pictures):
            yield f"image_turns are {len(turns)} for {len(pictures)} pictures"
        elif not (turns[0] >= 0 and turns[-1] <= last and (np.diff(turns) >= 0).all()):
            yield f"image_turns are {_shown(turns.tolist())} instead of ascending turns from 0 to {last}"
    tiles = request.inputs.get("image_tiles")
    if tiles is not None and (len(tiles) != len(pictures) or not 1 <= tiles.min() <= tiles.max() <= limits.tiles):
        yield f"image_tiles are {_shown(tiles.tolist())} instead of one number a picture, from 1 to {limits.tiles}"
    least = len(pictures) * limits.tile_tokens
    if least >= limits.context:
        yield (
            f"{len(pictures)} pictures of at least {limits.tile_tokens} tokens are {least} of a context of"
            f" {limits.context}"
        )


def _with_pictures(request: Request) -> Request:
    """Return the request with its pictures as the bytes of image files: data URLs and base64 are decoded."""
    values = request.inputs.get("image")
    if values is None or values.dtype != np.object_:
        return request
    pictures, findings = np.empty_like(values), []
    for index, value in enumerate(values.flat):
        try:
            pictures.flat[index] = encoded_picture(value)
        except InputError as error:
            findings.append(f"image {index} {error}")
    _refuse(request, findings)
    return replace(request, inputs={**request.inputs, "image": pictures})


def _picture_in(text: str) -> str | None:
    """Return what is wrong with a text that holds a picture as a data URL or base64; None for an ordinary text."""
    try:
        picture = picture_in_text(text)
    except InputError as error:
        return str(error)
    return None if picture is None else "is a picture and no text; send it to a model that takes pictures"


def _is_empty(text: str) -> bool:
    return not text.strip()


_FINDINGS: dict[str, Callable[[str], bool]] = {
    "prompt": lambda text: False,
    "history": lambda text: False,
    "system": lambda text: False,
    "stop": lambda text: not text,
    "templates": lambda text: "{}" not in text,
}
"""Input -> function that returns True for a text that is wrong; texts of all other inputs are wrong when empty."""


def _require_counts(request: Request, served: ServedModel, options: ServeOptions) -> None:
    """Refuse a request with too many rows or texts, before each of them is checked."""
    rows = served.rows(request)
    if served.row_inputs and rows > options.max_rows:
        raise TooLargeError(f"{request.model}: {rows} rows, at most {options.max_rows} are taken at once")
    texts = len(request.inputs.get("labels", ())) * len(request.inputs.get("templates", (b"",)))
    if texts > options.max_rows:
        raise TooLargeError(f"{request.model}: {texts} labels in templates, at most {options.max_rows} are taken")


def _require_short_texts(request: Request, served: ServedModel, options: ServeOptions) -> None:
    limits = served.signature.answers
    most = options.max_text_bytes if limits is None else limits.context * _TOKEN_BYTES
    for name, values in request.inputs.items():
        if values.dtype == np.object_ and name != "image" and max(map(len, values.flat)) > most:
            finding = f"{request.model}: {name} has a text of more than {most} bytes"
            if limits is None:
                raise TooLargeError(finding)
            raise BadRequestError(
                f"{finding}, for a context of {limits.context} tokens", param="messages", code=CONTEXT_CODE
            )


def _ids(request: Request, model: ModelInfo) -> Iterator[str]:
    """Yield a finding for ids and positions outside the model's embedding tables: a backend might read past the end."""
    if model.text is None:
        return
    places = model.text.max_positions
    for name, end in (("input_ids", model.text.vocab_size), ("position_ids", places)):
        values = request.inputs.get(name)
        if values is None:
            continue
        if not 0 <= values.min() <= values.max() < end:
            yield f"{name} holds {values.min()} to {values.max()} instead of 0 to {end - 1}"
        if values.shape[-1] > places:
            yield f"{name} has {values.shape[-1]} positions, the model has {places}"


def _parameters(request: Request, served: ServedModel) -> Iterator[str]:
    for name, choice in served.choices.items():
        if name in request.parameters and not choice.takes(request.parameters[name]):
            yield f"{name} is {_shown(request.parameters[name])} instead of {choice.words}{choice.remedy}"


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN]
