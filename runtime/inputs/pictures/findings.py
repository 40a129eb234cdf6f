"""Describe the faults of pictures and other inputs in a few words, and list many of them in one line."""

import logging
from collections.abc import Sequence

from internvl_edge.runtime.errors import EdgeError
from internvl_edge.runtime.inputs.files.names import in_one_line, system_words

logger = logging.getLogger(__name__)

NAMED = 20
"""Most unusable pictures that one error names; the others are counted."""
OUT_OF_MEMORY = "too large for the memory of this machine"
"""Reason for a picture that the decoder has no memory for."""


def reason(error: Exception) -> str:
    """Return in a few words why a picture cannot be used, without paths and without messages of libraries."""
    if isinstance(error, EdgeError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and (words := system_words(error)) is not None:
        return words
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    logger.debug("a picture cannot be used", exc_info=error)
    return "broken or cut off"


def listed(findings: Sequence[tuple[str, str]]) -> str:
    """Return the names of pictures with the reasons why they cannot be read, at most `NAMED` of them."""
    names = ", ".join(f"{in_one_line(name)} ({why})" for name, why in findings[:NAMED])
    return names + (f" and {len(findings) - NAMED} more" if len(findings) > NAMED else "")
