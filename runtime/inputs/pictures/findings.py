"""Findings on pictures and other inputs in a few words, and many of them in one line."""

import logging
from collections.abc import Sequence

from internvl_edge.runtime.errors import EdgeError
from internvl_edge.runtime.inputs.files.names import in_one_line, system_words

logger = logging.getLogger(__name__)

NAMED = 20
"""Unusable pictures that one error names; of more it tells the number."""


def reason(error: Exception) -> str:
    """Return why a picture cannot be used, in a few words: never a path, never what a library says."""
    if isinstance(error, EdgeError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and (words := system_words(error)) is not None:
        return words
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    logger.debug("a picture cannot be used", exc_info=error)
    return "broken or cut off"


def listed(findings: Sequence[tuple[str, str]]) -> str:
    """Return pictures with the reasons why they cannot be read; of many the first `NAMED`."""
    names = ", ".join(f"{in_one_line(name)} ({why})" for name, why in findings[:NAMED])
    return names + (f" and {len(findings) - NAMED} more" if len(findings) > NAMED else "")
