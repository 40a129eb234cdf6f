"""Opset and file format version of canonical graphs."""

OPSET = 23
"""Opset of the graphs in a bundle: the first with Attention, RMSNormalization and RotaryEmbedding."""
IR_VERSION = 10
"""Oldest version of the ONNX file format that has every type of opset 23."""
