"""Find the block of a model that a node of a canonical graph belongs to, by the node's name."""

import re

_BLOCK = re.compile(r"^(.*?\blayers\.\d+)\b")


def block_of(name: str | None) -> str | None:
    """Return the path of the block in a node's name, for example ``vision_model.encoder.layers.3``, or None."""
    match = _BLOCK.match(name or "")
    return match[1] if match else None
