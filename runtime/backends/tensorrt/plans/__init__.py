"""Load TensorRT's library and its plans, and run the kernels that plans contain."""
