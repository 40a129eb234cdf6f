"""Open a checkpoint of any official layout: its config, and its tensors on disk under the official names."""

from internvl_edge.export.checkpoint.files.tensors import StoredTensor
from internvl_edge.export.checkpoint.opening import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "StoredTensor", "open_checkpoint"]
