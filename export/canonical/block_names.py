"""Which block of a model a node of a canonical graph belongs to: nodes are named by the paths of their modules."""

import re

_BLOCK = re.compile(r"^(.*?\blayers\.\d+)\b")


def block_of(name: str | None) -> str | None:
    """Return the path of the block that a node lies in by its name, as ``vision_model.encoder.layers.3``."""
    match = _BLOCK.match(name or "")
    return match[1] if match else None
