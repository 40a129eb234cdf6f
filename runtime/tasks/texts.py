"""Texts and ids as callers give them, checked where they enter, and brought to the ids that a graph takes."""

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
"""Strings; or `input_ids` int64 ``[T, L]``."""

SHOWN = 80
"""Characters of a user's text that an error shows."""


def tokenize(model: OpenedGraphs, texts: Sequence[str], monitor: Monitor = UNMONITORED) -> np.ndarray:
    """Return the ids ``[T, L]`` that `encode_text` takes; of no texts, none."""
    return encoded(model, text_list(texts, "texts"), TEXT_PREFIX, monitor)


def ids_of(model: OpenedGraphs, texts: Texts, prefix: str, monitor: Monitor, held: int = 0) -> np.ndarray:
    """Return the ids ``[T, L]`` of texts behind `prefix`; those given as ids are checked against the model's tables.

    `held` other positions follow them, or come before them.

    Raises:
        InputError: ids that the model has no row for, too many positions, or a text of padding alone.
    """
    if isinstance(texts, np.ndarray) and (texts.ndim != 1 or texts.dtype.kind not in "OU"):
        check_ids(model.info, texts, held)
        return require_nonpadding_ids(texts)
    return encoded(model, text_list(texts, "texts"), prefix, monitor)


def encoded(model: OpenedGraphs, texts: Sequence[str], prefix: str, monitor: Monitor) -> np.ndarray:
    """Return the ids ``[T, L]`` of texts, cut at the model's length."""
    tokenizer = model.tokenizer
    with monitor.stages.stage(TOKENIZE):
        return tokenizer.encode_texts(texts, prefix=prefix, max_length=model.info.require_text().max_text_length)


def encoded_prompt(model: OpenedGraphs, prompt: str, monitor: Monitor) -> np.ndarray:
    """Return the ids ``[1, n]`` that a caption follows."""
    tokenizer = model.tokenizer
    with monitor.stages.stage(TOKENIZE):
        return tokenizer.encode_prompt(prompt)


def check_ids(info: ModelInfo, ids: np.ndarray, held: int) -> None:
    """Check ids that follow, or are followed by, `held` other positions.

    Raises:
        InputError: they are no integers ``[rows, length]``, unknown to the model, or too many.
    """
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(f"ids: found {ids.dtype} {list(ids.shape)}; give integers [rows, length]")
    if info.text is None:
        return
    known, places = info.text.vocab_size, info.text.max_positions
    if ids.size and not 0 <= ids.min() <= ids.max() < known:
        raise InputError(f"ids: found {ids.min()} to {ids.max()}; the model knows 0 to {known - 1}")
    if ids.shape[1] + held > places:
        raise InputError(f"ids: {ids.shape[1] + held} positions, the model has {places}; shorten them")


def id_batches(ids: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield `ids` ``[T, L]`` in batches of at most `size` rows."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def text_list(texts: object, what: str) -> list[str]:
    """Return texts as a list; `what` they are, as ``labels``, is named in errors. Arrays of strings are taken too.

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
    """Return ids ``[T, L]`` of texts, each of which has something to read: 0 is padding.

    Raises:
        InputError: texts of padding alone, by position.
    """
    if len(silent := np.flatnonzero(~ids.any(axis=1))):
        positions = listed([(str(index), "padding alone") for index in silent])
        raise InputError(f"ids: no text at positions {positions}; leave these rows out")
    return ids
