"""What a TensorRT-RTX plan does, read from its bytes: no GPU, and no TensorRT either."""
