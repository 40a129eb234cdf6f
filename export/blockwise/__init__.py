"""Run a model with the weights of one block in memory at a time."""
