"""A bundle in the form that another server takes: NVIDIA Triton's model repository, or Ray Serve's configuration."""
