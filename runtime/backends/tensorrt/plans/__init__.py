"""TensorRT's library and its plans: found, read, checked, and the kernels that they carry."""
