"""Find and read the files of a checkpoint: JSON, safetensors, torch files, and the tensors that they store."""
