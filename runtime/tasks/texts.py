"""Check the texts and ids of callers and convert them to the ids that a graph takes."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from internvl_edge.runtime.bundle.manifest import ModelInfo
from internvl_edge.runtime.bundle.tokenizer import TEXT_PREFIX
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.findings import listed
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.stages import TOKENIZE
from internvl_edge.runtime.tasks.opened import OpenedGraphs

Texts = Sequence[str] | np.ndarray
"""A list of strings, or `input_ids` int64 ``[T, L]``."""

SHOWN = 80
"""Most characters of a user's text that an error shows."""


def tokenize(model: OpenedGraphs, texts: Sequence[str], monitor: Monitor = UNMONITORED) -> np.ndarray:
    """Return the ids ``[T, L]`` that `encode_text` takes; T may be 0."""
    return encoded(model, text_list(texts, "texts"), TEXT_PREFIX, monitor)


def ids_of(model: OpenedGraphs, texts: Texts, prefix: str, monitor: Monitor, other_positions: int = 0) -> np.ndarray:
    """Return the ids ``[T, L]`` of texts with `prefix`; ids are checked against the model's sizes and returned.

    The graph adds `other_positions` other positions before or after them.

    Raises:
        InputError: ids beyond the model's vocabulary, too many positions, or a text of padding alone.
    """
    if isinstance(texts, np.ndarray) and (texts.ndim != 1 or texts.dtype.kind not in "OU"):
        check_ids(model.info, texts, other_positions)
        return require_nonpadding_ids(texts)
    return encoded(model, text_list(texts, "texts"), prefix, monitor)


def encoded(model: OpenedGraphs, texts: Sequence[str], prefix: str, monitor: Monitor) -> np.ndarray:
    """Return the ids ``[T, L]`` of texts, cut to the model's length."""
    tokenizer = model.tokenizer
    with monitor.stages.stage(TOKENIZE):
        return tokenizer.encode_texts(texts, prefix=prefix, max_length=model.info.require_text().max_text_length)


def encoded_prompt(model: OpenedGraphs, prompt: str, monitor: Monitor) -> np.ndarray:
    """Return the ids ``[1, n]`` of a caption's prompt."""
    tokenizer = model.tokenizer
    with monitor.stages.stage(TOKENIZE):
        return tokenizer.encode_prompt(prompt)


def check_ids(info: ModelInfo, ids: np.ndarray, other_positions: int) -> None:
    """Check ids to which the graph adds `other_positions` other positions before or after them.

    Raises:
        InputError: the ids are no integers ``[rows, length]``, beyond the model's vocabulary, or too many.
    """
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(f"ids: found {ids.dtype} {list(ids.shape)}; give integers [rows, length]")
    if info.text is None:
        return
    known, places = info.text.vocab_size, info.text.max_positions
    if ids.size and not 0 <= ids.min() <= ids.max() < known:
        raise InputError(f"ids: found {ids.min()} to {ids.max()}; the model knows 0 to {known - 1}")
    if ids.shape[1] + other_positions > places:
        raise InputError(f"ids: {ids.shape[1] + other_positions} positions, the model has {places}; shorten them")


def id_batches(ids: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield `ids` ``[T, L]`` in batches of at most `size` rows."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def text_list(texts: object, what: str) -> list[str]:
    """Return a list or an array of strings as a list; errors call them `what`, as ``labels``.

    Raises:
        InputError: one text instead of several, none at all, or something else among them.
    """
    if isinstance(texts, str):
        raise InputError(f"{what}: {texts[:SHOWN]!r} is one {what.rstrip('s')}, not several; give a list")
    if isinstance(texts, np.ndarray):
        texts = texts.tolist()
    if not isinstance(texts, Iterable):
        raise InputError(f"{what}: {type(texts).__name__} is no list of texts; give a list")
    found = list(texts)
    if wrong := [(str(index), type(text).__name__) for index, text in enumerate(found) if not isinstance(text, str)]:
        raise InputError(f"{what}: no texts at positions {listed(wrong)}; give strings")
    return found


def require_nonpadding_ids(ids: np.ndarray) -> np.ndarray:
    """Return ids ``[T, L]`` of texts if each has an id besides the padding, 0.

    Raises:
        InputError: texts of padding alone, by position.
    """
    if len(silent := np.flatnonzero(~ids.any(axis=1))):
        positions = listed([(str(index), "padding alone") for index in silent])
        raise InputError(f"ids: no text at positions {positions}; leave these rows out")
    return ids
