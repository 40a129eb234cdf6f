"""The kernels, one Triton function a file; `tiles` holds what they share.

Arguments of every kernel come in the order in which TensorRT hands them to ahead-of-time plugins: pointers of the
inputs, then 32-bit integers, then pointers of the outputs, then what is compiled in. Kernels of 8-bit tensors take
their scales as an fp32 vector in memory, so that one kernel serves all layers.
"""
