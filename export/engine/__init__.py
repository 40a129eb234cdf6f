"""Build TensorRT plans from graphs with all flavours and versions; imports neither torch nor onnx."""
