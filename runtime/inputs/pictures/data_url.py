"""Parse data URLs (RFC 2397) in every spelling that browsers and libraries write, and lenient base64."""

import base64
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from internvl_edge.runtime.errors import InputError

_BEGIN = "data:"
_LONGEST_HEAD = 1024
_MOST_ESCAPES = 1 << 18
"""Most percent escapes of a URL, since decoding one takes as long as a hundred characters of base64."""
_TOKEN = r"[\w.+*!#$&^-]+"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}", re.ASCII)
_PARAMETER = re.compile(rf"{_TOKEN}\s*=.*", re.ASCII | re.DOTALL)
_WORD = re.compile(_TOKEN, re.ASCII)
_UNFINISHED = re.compile(rf"data:\s*{_TOKEN}/{_TOKEN}(?:\s*;[^,;\s]*)*\s*", re.ASCII | re.IGNORECASE)
_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\f"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUrl:
    """A parsed data URL: its media type, whether it declared base64, and its bytes."""

    media_type: str
    """Media type in lower case; empty where the URL names none."""
    content: bytes
    encoded: bool
    """Whether the URL declares base64."""


def data_url(text: str) -> DataUrl | None:
    """Return `text`, which has no space around it, parsed as a data URL; None for any other text.

    The scheme, the media type and ``;base64`` may be in capitals. The media type may be missing. Parameters may be
    anywhere and may be mere words, as ``;utf8``. The bytes may be base64 of either alphabet, without padding,
    percent-encoded or broken into lines.

    Raises:
        InputError: the text begins as a data URL but is none.
    """
    if text[: len(_BEGIN)].lower() != _BEGIN:
        return None
    head, comma, payload = text[len(_BEGIN) :].partition(",")
    if not comma:
        if _UNFINISHED.fullmatch(text):
            raise InputError("is a data URL without a comma; send the whole of it")
        return None
    fields = _fields(head)
    if fields is None:
        return None
    media_type, encoded = fields
    if not encoded and (head != head.strip() or payload[:1].isspace()):  # a text as "data: input/output, and more"
        return None
    if payload.count("%") > _MOST_ESCAPES:
        raise InputError(f"is a data URL of more than {_MOST_ESCAPES} percent-encoded bytes; send it in base64")
    raw = unquote_to_bytes(payload.partition("#")[0].encode("utf-8", "surrogatepass"))
    content = decoded_base64(raw) if encoded else raw
    if content is None:
        raise InputError("is a data URL that holds no base64; encode the bytes again")
    return DataUrl(media_type=media_type, content=content, encoded=encoded)


def decoded_base64(text: bytes) -> bytes | None:
    """Return the bytes of base64 of either alphabet, with or without padding and line breaks.

    Return None for any other text.
    """
    packed = text.translate(_URL_ALPHABET, _WHITESPACE).rstrip(b"=")
    if len(packed) % 4 == 1 or packed.translate(None, _ALPHABET):
        return None
    return base64.b64decode(packed + b"=" * (-len(packed) % 4))


def _fields(head: str) -> tuple[str, bool] | None:
    """Return the media type and whether ``base64`` is declared; None where `head` is no head of a data URL."""
    if len(head) > _LONGEST_HEAD:
        return None
    media_type, *parameters = (part.strip() for part in head.split(";"))
    encoded = any(parameter.lower() == "base64" for parameter in parameters)
    named = [part for part in parameters if part and part.lower() != "base64"]
    words = _MEDIA_TYPE.fullmatch(media_type) is not None and not re.search(r"\s", head)  # image/svg+xml;utf8
    if any(_PARAMETER.fullmatch(part) is None and not (words and _WORD.fullmatch(part)) for part in named):
        return None
    if not media_type:
        return ("", encoded) if encoded or named or not head else None
    if _MEDIA_TYPE.fullmatch(media_type) or (encoded and re.fullmatch(_TOKEN, media_type, re.ASCII)):
        return media_type.lower(), encoded
    return None
