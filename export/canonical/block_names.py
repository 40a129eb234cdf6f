"""Find the block of a model that a node of a canonical graph belongs to, by the node's name."""

import re

PART = "part."
"""Component before the index of a node that multiplies by a part of a large matrix."""
_BLOCK = re.compile(r"^(.*?\blayers\.\d+)\b")
_PART = re.compile(rf"^(.*/{re.escape(PART)}\d+)\b")


def block_of(name: str | None) -> str | None:
    """Return the path of the block in a node's name, for example ``vision_model.encoder.layers.3``, or None."""
    match = _BLOCK.match(name or "")
    return match[1] if match else None


def part_of(name: str | None) -> str | None:
    """Return the path of the part of a large matrix that a node multiplies by or prepares, or None."""
    match = _PART.match(name or "")
    return match[1] if match else None
