"""Open a checkpoint of any official layout: its config, and its tensors on disk under the official names."""

from internvl_edge.export.checkpoint.opening import Checkpoint, open_checkpoint
from internvl_edge.export.checkpoint.shapes import StoredTensor

__all__ = ["Checkpoint", "StoredTensor", "open_checkpoint"]
