"""Read a TensorRT-RTX plan from its bytes: its program, launches, traffic and work."""
