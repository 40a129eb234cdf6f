"""From a graph to a TensorRT plan, one code path over flavours and versions; imports neither torch nor onnx."""
