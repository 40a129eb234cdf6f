"""Packaging of a bundle for another server: NVIDIA Triton's model repository, or Ray Serve's configuration."""
