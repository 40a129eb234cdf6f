"""Tables of tensor types and of quantized formats. The tables need no library, not even NumPy."""
