"""Rewrite a graph in memory when it is opened, into a form for which ONNX Runtime has fast CPU kernels."""
