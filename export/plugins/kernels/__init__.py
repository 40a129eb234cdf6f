"""The kernels, one Triton function in each file, and the functions that they share.

The arguments of every kernel have the order in which TensorRT passes them to ahead-of-time plugins: pointers of the
inputs, 32-bit integers, pointers of the outputs, then compile-time constants. Kernels with 8-bit tensors take their
scales as an fp32 vector in memory, so that one compiled kernel is used for all layers.
"""
