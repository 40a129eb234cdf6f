"""Sizes of memory as users write them: ``12GiB``, ``800MiB``, ``16GB``, or bytes."""

import re

from internvl_edge.runtime.errors import EngineError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", re.IGNORECASE)


def parse_bytes(flag: str, text: str) -> int:
    """Return the bytes that `text` says, as given to `flag`.

    Raises:
        EngineError: it says no size, or none above zero.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    unit = unit if unit in _UNITS else f"{unit}b"
    if match is None or unit not in _UNITS or float(match[1]) <= 0:
        raise EngineError(f"{flag} {text}: not a size; give one as 12GiB, 800MiB or 16GB")
    return round(float(match[1]) * _UNITS[unit])
