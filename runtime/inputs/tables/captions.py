"""Find the file, the captions by language and the class of a picture in the fields of a row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from internvl_edge.runtime.inputs.files.names import is_unicode

NO_LANGUAGE = ""
"""Language of captions whose row names none."""
FILE_KEYS = ("file", "file_name", "filename", "image_path")
"""Fields with the name of the picture: `file_name` is used by COCO and image folders of the Hub, `filename` by
Flickr30K."""
CAPTION_KEYS = ("label", "caption", "text", "captions", "texts", "sentences")
_RAW = "raw"
"""Field with the text in the elements of `sentences` in Karpathy's files."""
GROUP_KEY = "group"
_URL = "://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Captions and class of a picture."""

    texts: Mapping[str, tuple[str, ...]]
    """Captions by language, none of them empty."""
    group: str | None
    unused: tuple[str, ...] = ()
    """Names of fields for captions or a class that hold something else."""


def file_of(fields: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the name of a row's picture and "", or None and the reason why there is none."""
    key = next((key for key in FILE_KEYS if fields.get(key) is not None), None)
    if key is None:
        names = ", ".join(list(map(str, fields))[:6]) or "nothing"
        return None, f"no `file`, it has {names}"
    name = fields[key]
    fault = name_fault(name)
    return (name, "") if not fault else (None, f"`{key}` {fault}")


def name_fault(name: object) -> str:
    """Return why a value names no picture; empty for one that does."""
    if not isinstance(name, str) or not name.strip():
        return "is no name of a file"
    if _URL in name:
        return "is an address, which no command fetches"
    try:
        nameable = b"\0" not in name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        nameable = False
    return "" if nameable else "is no name that a file can have"


def labels_of(fields: Mapping[str, Any]) -> tuple[Labels, str]:
    """Return the captions and class of a row's picture, and the reason why the row is unusable, if it is.

    Captions are taken from the first of `CAPTION_KEYS` that holds a text, a list of texts, or an object with either for
    each language.
    """
    unused = []
    texts: dict[str, tuple[str, ...]] = {}
    for key in CAPTION_KEYS:
        value = fields.get(key)
        if value is None:
            continue
        found = _by_language(value)
        if found is None:
            unused.append(f"{key} is {_type(value)}")
        elif found:
            texts = found
            break
    group = fields.get(GROUP_KEY)
    if isinstance(group, int) and not isinstance(group, bool):
        group = str(group)
    if group is not None and not isinstance(group, str):
        unused.append(f"{GROUP_KEY} is {_type(group)}")
        group = None
    words = [text for captions in texts.values() for text in captions] + ([group] if group else [])
    fault = "" if all(map(is_unicode, words)) else "holds text that is no UTF-8"
    return Labels(texts=texts, group=group, unused=tuple(unused)), fault


def texts_of(value: object) -> list[str] | None:
    """Return the texts of a field that holds a text or a list of texts; None for anything else."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        return None
    texts = [part if isinstance(part, str) else part.get(_RAW) if isinstance(part, dict) else None for part in value]
    return [str(text) for text in texts] if all(isinstance(text, str) for text in texts) else None


def _by_language(value: object) -> dict[str, tuple[str, ...]] | None:
    """Return captions by language without empty ones; None if the value holds something else."""
    given = value if isinstance(value, dict) else {NO_LANGUAGE: value}
    found = {}
    for language, captions in given.items():
        if captions is None:
            continue
        texts = texts_of(captions)
        if texts is None:
            return None
        if kept := _filled(texts):
            found[str(language)] = kept
    return found


def _filled(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if text.strip())


def _type(value: object) -> str:
    kinds: Sequence[tuple[type | tuple[type, ...], str]] = (
        (bool, "true or false"),
        ((int, float), "a number"),
        (Mapping, "an object without texts"),
        (list, "a list without texts"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), type(value).__name__)
