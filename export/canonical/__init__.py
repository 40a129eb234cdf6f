"""The canonical graph: one form of every model, whatever a TensorRT version wants of it later."""
