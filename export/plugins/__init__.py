"""Fused attention for InternViT and QLLaMA: Triton kernels, compiled ahead of time, carried by TensorRT plans."""
