"""What callers give `InternVL`, checked where it enters: texts, ids and pixel values that have an answer."""

from collections.abc import Iterable, Mapping

import numpy as np

from internvl_edge.runtime.decode import listed
from internvl_edge.runtime.errors import InputError

_SHOWN = 80
"""Characters of a user's text that an error shows."""
_PAST = "past_key_values."
"""Inputs that may be empty: a cache that holds nothing yet."""


def text_list(texts: object, what: str) -> list[str]:
    """Return texts as a list; `what` they are, as ``labels``, is named in errors. Arrays of strings are taken too.

    Raises:
        InputError: one text instead of several, none at all, or something else among them.
    """
    if isinstance(texts, str):
        raise InputError(f"{what}: {texts[:_SHOWN]!r} is one {what.rstrip('s')}, not several; give a list")
    if isinstance(texts, np.ndarray):
        texts = texts.tolist()
    if not isinstance(texts, Iterable):
        raise InputError(f"{what}: {type(texts).__name__} is no list of texts; give a list")
    found = list(texts)
    if wrong := [(str(index), type(text).__name__) for index, text in enumerate(found) if not isinstance(text, str)]:
        raise InputError(f"{what}: no texts at positions {listed(wrong)}; give strings")
    return found


def require_read_ids(ids: np.ndarray) -> np.ndarray:
    """Return ids ``[T, L]`` of texts, each of which has something to read: 0 is padding.

    Raises:
        InputError: texts of padding alone, by position.
    """
    if len(silent := np.flatnonzero(~ids.any(axis=1))):
        positions = listed([(str(index), "padding alone") for index in silent])
        raise InputError(f"ids: no text at positions {positions}; leave these rows out")
    return ids


def require_finite_pixels(pixels: np.ndarray) -> np.ndarray:
    """Return `pixel_values` ``[B, ...]``.

    Raises:
        InputError: NaN or infinity among them.
    """
    if wrong := int((~np.isfinite(pixels)).reshape(len(pixels), -1).any(axis=1).sum()):
        raise InputError(f"pixel_values: {wrong} of {len(pixels)} pictures hold NaN or inf; prepare them again")
    return pixels


def require_elements(graph: str, inputs: Mapping[str, np.ndarray]) -> None:
    """Check that a graph is given something to compute: backends fail on no rows, each in its own way.

    Raises:
        InputError: arrays without elements, all of them named.
    """
    empty = [
        f"{name} {list(np.shape(values))}"
        for name, values in inputs.items()
        if np.size(values) == 0 and not name.startswith(_PAST)
    ]
    if empty:
        raise InputError(f"graph {graph}: {', '.join(empty)} without elements; give one row or more")
