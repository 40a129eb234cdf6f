"""Write JSON that every parser reads without loss: no NaN, no lone surrogates, no two entries of one name."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(content: object, *, indent: int | None = 2) -> str:
    """Return `content` as JSON text without a line break at the end.

    Numbers that JSON lacks are the strings "NaN", "Infinity" and "-Infinity", as in Protocol Buffers' JSON; Python's
    `float` and JavaScript's `Number` read them. Bytes of names that are no UTF-8 are escapes as ``\\udce9``, from
    which Python's `json` and `os.fsencode` restore the bytes.

    Raises:
        ValueError: two keys of an object become the same text.
        TypeError: `content` has a value that JSON cannot hold.
    """
    text = json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_line(content: object) -> str:
    """Return `content` as one line of JSON Lines with its line break; U+2028 and similar separators are escapes."""
    text = json_text(content, indent=None)
    return re.sub("[\x85\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def _plain(value: Any) -> Any:
    """Return `value` converted to the types of JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else _named(value)
    if isinstance(value, Mapping):
        entries = [(_key(key), _plain(each)) for key, each in value.items()]
        if len(plain := dict(entries)) != len(entries):
            raise ValueError(f"two entries of one name among {sorted(key for key, _ in entries)}")
        return plain
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, PurePath) else value


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    text: str = json.dumps(_plain(key))
    return text


def _named(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
