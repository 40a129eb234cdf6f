"""Types of tensors and formats of few bits, as tables; they need no library, not even NumPy."""
