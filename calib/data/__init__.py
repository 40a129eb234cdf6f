"""Data sets: pictures and texts, read from files and converted to the inputs of a model."""
