"""The files of a checkpoint, and the tensors in them, as they are stored."""
