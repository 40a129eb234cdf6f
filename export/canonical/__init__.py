"""Trace graphs to ONNX and bring them into canonical form, which does not depend on a TensorRT version."""
