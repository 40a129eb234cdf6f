"""Recognise pictures in inputs that may be text: data URLs, bare base64, and addresses, which are not fetched."""

import re

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.formats import is_picture_name
from internvl_edge.runtime.inputs.files.sniff import HEAD_BYTES, described, picture_format
from internvl_edge.runtime.inputs.pictures.data_url import DataUrl, data_url, decoded_base64

_AROUND = " \t\r\n\f\v\0\xa0\ufeff\u200b\u2060"
"""Characters that copying may leave around a URL."""
_SCHEMES = "https?|ftps?|sftp|s3[an]?|gc?s|azure|az|abfss?|wasbs?|adl|hdfs|dbfs|oss|cosn?|obs|swift|hf|ipfs|file"
_ADDRESS = re.compile(rf"(?:(?:{_SCHEMES})://|file:/|blob:)\S+", re.IGNORECASE)
_ANY_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_AMID = re.compile(
    r"data:[^,:\s]{0,128};\s{0,8}base64\s{0,8},(?:[\w+/%-]|\s{1,8}[\w+/%-]{16})", re.IGNORECASE | re.ASCII
)
"""A data URL inside other text. Spaces after the comma need 16 characters of base64 behind them, so that "the
data:image/png;base64, prefix" is none."""
_LETTERS_AMID = re.compile(
    r"(?:(?<![A-Za-z0-9+/_=-])|(?<=%2C))"
    r"(?:iVBORw0KG|[/_]9j[/_]|R0lGOD|UklGR|SUkqA|TU0AK|AAAA[A-Za-z0-9+/_-]GZ0eX)[A-Za-z0-9+/_-]{32,512}",
    re.ASCII,
)
"""Base64 of a picture inside other text: in quotes, as ``b'...'``, in JSON, after ``image/png;base64,``."""
_WORDS_AMID = ("iVBORw0KG", "9j", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "GZ0eX")
"""Substrings of which a text must have one before the slower `_LETTERS_AMID` is searched for."""
_FIRST_LETTERS = re.compile(
    r"iVBO|[/_]9j[/_]|[/_]0[/_][/_]|R0lG|UklG|Qk|SUk[qr]|TU0[AK]|AAAA|AAAB|UD[E-Z]|UE[YZ]|UG[YZ]|OEJQ|JVBE|PHN2"
)
"""First characters of the base64 of each format of pictures, by which other text is recognised quickly."""
_PLAIN_HEAD = re.compile(rb"P[1-6Ff]\s+(?:#[^\n]*\n\s*)*\d{1,9}\s+\d")
"""Head of a picture in PPM, needed because its first two characters may begin a text."""
_UNREAD = ("HEIC", "Photoshop", "icon", "PDF", "SVG", "XL")
"""Words in descriptions of formats that are neither text nor decoded; the decoder reports them."""
_HEAD_OF_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]\s{0,8}){24,1024}", re.ASCII)
_BEFORE = re.compile(
    r"""(?:b?["'`<(]|\\")?\s{0,8}(?:(?:[a-z]{1,16}/[\w.+-]{1,64}\s{0,8};)?\s{0,8}base64\s{0,8}[,:])?\s{0,8}""",
    re.IGNORECASE | re.ASCII,
)
"""Text that may precede base64: a quote, as in `str` of Python's bytes, or a data URL's head without `data:`."""
_BEHIND = "\"'`>)\\" + _AROUND
_GENERIC = ("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
_SHOWN = 60
_NOTHING_FETCHED = "nothing is fetched here; send the picture itself, as a data URL"


def picture_in_text(text: str) -> bytes | None:
    """Return the encoded picture that `text` contains; None where it is plain text.

    Raises:
        InputError: the text refers to a picture that it does not contain. The message reads on from the input's name.
    """
    bare = text.strip(_AROUND)
    if (url := data_url(bare)) is not None:
        return _picture_of(url)
    if _is_address(bare):
        raise InputError(f"is an address ({bare[:_SHOWN]}), and {_NOTHING_FETCHED}")
    if (picture := _wrapped_base64(bare)) is not None:
        return picture
    if bare[:5].lower() == "data:" and (picture := _bare_base64(bare.partition(",")[2])) is not None:
        return picture
    if "base64" in bare.lower() and _AMID.search(bare):
        raise InputError("has a data URL inside other text; send picture and text apart")
    if any(word in bare for word in _WORDS_AMID) and any(map(_is_base64_head, _LETTERS_AMID.finditer(bare))):
        raise InputError("has the base64 of a picture inside other text; send the picture alone, or the text")
    return None


def encoded_picture(content: bytes) -> bytes:
    """Return the encoded picture of an input for pictures, which is `content` itself or contained in its text.

    Raises:
        InputError: `content` is text that refers to a picture that it does not contain.
    """
    head = content[:HEAD_BYTES]
    if picture_format(head) is not None or not head.isascii():
        return content
    try:
        picture = picture_in_text(content.decode("ascii"))
    except UnicodeDecodeError:
        return content
    return content if picture is None else picture


def _picture_of(url: DataUrl) -> bytes:
    content = url.content
    if not url.encoded and not _is_picture(content):  # some URLs do not declare their base64
        packed = decoded_base64(content)
        content = packed if packed is not None and _is_picture(packed) else content
    if not content:
        raise InputError("is a data URL of no bytes; send the whole picture")
    if not (url.media_type.startswith("image") or url.media_type in _GENERIC or _is_picture(content)):
        raise InputError(f"is a data URL of {url.media_type[:_SHOWN]}, which is no picture; send a picture or a text")
    return content


def _is_address(text: str) -> bool:
    """Return whether a whole text is an address; it may have spaces if it ends as the name of a picture."""
    if _ADDRESS.fullmatch(text):
        return True
    begins = _ANY_SCHEME.match(text)
    return begins is not None and is_picture_name(re.split(r"[?#]", text)[0])


def _wrapped_base64(text: str) -> bytes | None:
    """Return the picture of base64 that may be in quotes or after ``image/png;base64,``; None for other text."""
    before = _BEFORE.match(text)
    begin = before.end() if before else 0
    if begin and _FIRST_LETTERS.match(text, begin) is None:
        return None
    return _bare_base64(text[begin:].rstrip(_BEHIND) if begin else text)


def _bare_base64(text: str) -> bytes | None:
    """Return the picture of base64; None for other text, whose bytes do not begin as a picture's."""
    if _FIRST_LETTERS.match(text) is None or (begin := _HEAD_OF_BASE64.match(text)) is None:
        return None
    letters = re.sub(r"\s", "", begin.group())
    head = decoded_base64(letters[: len(letters) // 4 * 4].encode())
    if head is None or not (_is_picture(head) or _PLAIN_HEAD.match(head) or _is_unread(head)):
        return None
    whole = decoded_base64(text.encode("ascii", "replace"))
    if whole is None:
        raise InputError("begins as the base64 of a picture and is none; encode the bytes again")
    return whole


def _is_base64_head(found: re.Match[str]) -> bool:
    """Return whether characters inside a text begin the base64 of a picture."""
    letters = found.group()
    head = decoded_base64(letters[: len(letters) // 4 * 4].encode())
    return head is not None and _is_picture(head)


def _is_picture(content: bytes) -> bool:
    head = content[:HEAD_BYTES]
    return picture_format(head) not in (None, "PPM") or "HEIC" in (described(head) or "")


def _is_unread(head: bytes) -> bool:
    return any(word in (described(head) or "") for word in _UNREAD)
