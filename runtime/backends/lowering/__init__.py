"""Rewrite a bundle's graph in memory, as it is opened, into what ONNX Runtime's CPU kernels are fast in."""
