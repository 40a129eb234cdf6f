"""A model run with one block of its weights in memory at a time."""
