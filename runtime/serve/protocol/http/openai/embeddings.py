"""OpenAI's embeddings endpoint: texts, and pictures as data URLs, in one list."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.finite import REMEDY
from internvl_edge.runtime.inputs.pictures.picture_text import picture_in_text
from internvl_edge.runtime.serve.models import ENCODE_IMAGE, ENCODE_TEXT
from internvl_edge.runtime.serve.protocol.binary_tensors import object_array
from internvl_edge.runtime.serve.protocol.checks import HALF_SURROGATE, quoted
from internvl_edge.runtime.serve.protocol.http.document.openai_schemas import EMBEDDINGS_FIELDS
from internvl_edge.runtime.serve.protocol.openai_models import PREFIX, require_model
from internvl_edge.runtime.serve.refusals import BadRequestError, FailedError, TooLargeError
from internvl_edge.runtime.serve.signature import Signature

_MOST_ITEMS = 2048
"""Largest number of texts and pictures in one request, the same as OpenAI's limit."""
_NAMED = 5
"""Largest number of items that one error message names."""
_NO_INPUT = "input: is a text, a data URL of a picture, or a list of them"


class Part(NamedTuple):
    """The engine's request for all texts, or for all pictures."""

    model: str
    inputs: dict[str, np.ndarray]
    parameters: dict[str, str]
    places: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsRequest:
    """The texts and pictures of one request."""

    model: str
    texts: Mapping[int, bytes]
    """Index in the list -> text in UTF-8."""
    pictures: Mapping[int, bytes]
    """Index in the list -> bytes of an image file."""
    base64: bool
    """Whether embeddings are returned in base64."""

    def parts(self) -> list[Part]:
        """Return the engine's requests: one for the texts, one for the pictures."""
        parts = []
        if self.texts:
            parts.append(Part(ENCODE_TEXT, {"text": _array(self.texts)}, {}, list(self.texts)))
        if self.pictures:
            mode = {"mode": self.model.removeprefix(PREFIX)}
            parts.append(Part(ENCODE_IMAGE, {"image": _array(self.pictures)}, mode, list(self.pictures)))
        return parts


def wanted(content: dict[str, Any], models: Sequence[str], width: int) -> EmbeddingsRequest:
    """Return the request of a body.

    Args:
        content: The JSON object of the body.
        models: Names of the models that are offered.
        width: Number of values of an embedding; -1 if it is not known.

    Raises:
        RefusalError: A field is not known or has a wrong value, or there are too many items.
    """
    if unknown := set(content) - set(EMBEDDINGS_FIELDS):
        raise BadRequestError(f"field {quoted(min(unknown))} is not known; there are {', '.join(EMBEDDINGS_FIELDS)}")
    model = require_model(content.get("model"), models)
    form = content.get("encoding_format")
    if form is not None and form not in ("float", "base64"):
        raise BadRequestError(f"encoding_format {quoted(form)} is not known; there are float and base64")
    dimensions = content.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions != width):
        raise BadRequestError(f"dimensions {quoted(dimensions)}: these embeddings have {width} numbers; leave it out")
    if not isinstance(content.get("user", ""), str | None):
        raise BadRequestError("user: is a text")
    texts, pictures = {}, {}
    for place, text in enumerate(_items(content.get("input"))):
        picture = _picture(place, text)
        if picture is None:
            texts[place] = _encoded(place, text)
        else:
            pictures[place] = picture
    return EmbeddingsRequest(model=model, texts=texts, pictures=pictures, base64=form == "base64")


def require_graphs(request: EmbeddingsRequest, signatures: Mapping[str, Signature]) -> None:
    """Check that the server has the graphs that embed the request's kinds of items.

    Raises:
        BadRequestError: The graph for texts or pictures is missing.
    """
    for kind, task, places in (("pictures", ENCODE_IMAGE, request.pictures), ("texts", ENCODE_TEXT, request.texts)):
        if places and task not in signatures:
            listed = ", ".join(map(str, list(places)[:_NAMED]))
            raise BadRequestError(f"input {listed}: {kind} are not embedded here; this server has no graph for them")


def answer(request: EmbeddingsRequest, rows: Mapping[int, np.ndarray], tokens: int) -> dict[str, Any]:
    """Return the body of the response, with embeddings of unit length as OpenAI's.

    Raises:
        FailedError: Embeddings hold NaN or infinity, for which JSON has no value.
    """
    if wrong := [place for place in sorted(rows) if not np.isfinite(rows[place]).all()]:
        listed = ", ".join(map(str, wrong[:_NAMED]))
        raise FailedError(f"the model gives NaN or infinity for input {listed}; {REMEDY}")
    data = [
        {"object": "embedding", "index": place, "embedding": _listed(rows[place], request.base64)}
        for place in sorted(rows)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def _array(items: Mapping[int, bytes]) -> np.ndarray:
    return object_array(list(items.values()), (len(items),))


def _items(given: Any) -> Sequence[str]:
    items = [given] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise BadRequestError(_NO_INPUT)
    if len(items) > _MOST_ITEMS:
        raise TooLargeError(f"input: {len(items)} items, at most {_MOST_ITEMS} are taken at once")
    if any(type(item) is int or isinstance(item, list) for item in items):
        raise BadRequestError("input: ids of tokens are not taken, since each model has its own; send the text")
    if not all(isinstance(item, str) for item in items):
        raise BadRequestError(_NO_INPUT)
    return items


def _picture(place: int, text: str) -> bytes | None:
    try:
        return picture_in_text(text)
    except InputError as error:
        raise BadRequestError(f"input {place} {error}") from error


def _encoded(place: int, text: str) -> bytes:
    if not text.strip():
        raise BadRequestError(f"input {place} is empty; leave it out, or send a text")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadRequestError(f"input {place} {HALF_SURROGATE}") from error


def _listed(row: np.ndarray, as_base64: bool) -> "str | np.ndarray":
    unit: np.ndarray = (row / max(float(np.linalg.norm(row)), np.finfo(np.float32).tiny)).astype("<f4")
    return base64.b64encode(unit.tobytes()).decode() if as_base64 else unit
