"""Graphs as plans, on TensorRT or TensorRT-RTX."""

from internvl_edge.runtime.backends.tensorrt.open import open_tensorrt, unavailable

__all__ = ["open_tensorrt", "unavailable"]
