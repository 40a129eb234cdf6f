"""Fused attention for InternViT and QLLaMA: Triton kernels, compiled ahead of time and stored in TensorRT plans."""
