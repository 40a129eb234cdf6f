"""Parse and print sizes of memory as users write them in options (``12GiB``, ``800MiB``, ``16GB``)."""

import re

from internvl_edge.runtime.errors import InputError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", re.IGNORECASE)
_EXAMPLES = "12GiB, 800MiB or 16GB"


def parse_bytes(text: str, unit: str | None = None, least: int = 1) -> int:
    """Return the number of bytes that `text` stands for.

    `unit` is the unit of a bare number, for options whose name contains one. With None a number without a unit is
    refused, since ``4`` may be meant as four gigabytes. The result is at least `least`; it is 0 only if `least` is 0.

    Raises:
        InputError: `text` is no size, has no unit, or is too small. The message reads on from the option's name.
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
    """Return `size` bytes as text for `parse_bytes`, in the largest binary unit that fits, rounded up to a tenth."""
    for name, unit in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= unit:
            tenths = -(-size * 10 // unit)
            return f"{tenths // 10}{name}" if tenths % 10 == 0 else f"{tenths / 10:.1f}{name}"
    return f"{size}B"
