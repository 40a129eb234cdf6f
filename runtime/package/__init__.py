"""A bundle in the form that another server takes: NVIDIA Triton's model repository, a Ray Serve application."""
