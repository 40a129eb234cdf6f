"""The versions that canonical graphs are written in."""

OPSET = 23
"""Of the graphs in a bundle: the first opset with Attention, RMSNormalization and RotaryEmbedding."""
IR_VERSION = 10
"""The oldest version of ONNX's file format that has every type of opset 23."""
