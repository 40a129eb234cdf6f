"""A checkpoint of any official layout as one thing: its config, and its tensors under the official names, on disk."""

from internvl_edge.export.checkpoint.opening import Checkpoint, open_checkpoint
from internvl_edge.export.checkpoint.shapes import StoredTensor

__all__ = ["Checkpoint", "StoredTensor", "open_checkpoint"]
