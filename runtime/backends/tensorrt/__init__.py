"""Run graphs as plans with TensorRT or TensorRT-RTX."""

from internvl_edge.runtime.backends.tensorrt.open import open_tensorrt, unavailable

__all__ = ["open_tensorrt", "unavailable"]
