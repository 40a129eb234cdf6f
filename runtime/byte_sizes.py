"""Sizes of memory as users write them (``12GiB``, ``800MiB``, ``16GB``): one parser for every option that takes one."""

import re

from internvl_edge.runtime.errors import InputError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", re.IGNORECASE)
_EXAMPLES = "12GiB, 800MiB or 16GB"


def parse_bytes(text: str, unit: str | None = None, least: int = 1) -> int:
    """Return the bytes that `text` says.

    `unit` is that of a bare number, where the option's name says one; None: a number without a unit is refused, since
    ``4`` is as likely meant as four gigabytes. No option takes less than `least` bytes, and 0 only where `least` is 0.

    Raises:
        InputError: it says no size, has no unit, or is too small, in words that follow the option's name.
    """
    match = _SIZE.fullmatch(text.strip())
    written = match[2].lower() if match else ""
    if match is None or (written and written not in _UNITS and f"{written}b" not in _UNITS):
        raise InputError(f"{text!r} is not a size; give one as {_EXAMPLES}")
    if not written and unit is None:
        raise InputError(f"{text!r} has no unit; give one as {_EXAMPLES}")
    written = (written or str(unit)).lower()
    size = round(float(match[1]) * _UNITS[written if written in _UNITS else f"{written}b"])
    if size < least or (size == 0 and float(match[1]) > 0):
        raise InputError(f"{text!r} is {size} bytes; give {bytes_text(max(least, 1))} or more")
    return size


def bytes_text(size: int) -> str:
    """Return a size as `parse_bytes` reads it, in the largest binary unit that it fills; rounded up to a tenth."""
    for name, unit in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= unit:
            tenths = -(-size * 10 // unit)
            return f"{tenths // 10}{name}" if tenths % 10 == 0 else f"{tenths / 10:.1f}{name}"
    return f"{size}B"
