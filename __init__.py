"""A deployment compiler for InternVL: checkpoints to verified ONNX graphs and TensorRT plans, and what runs them."""

__version__ = "0.1.0"
