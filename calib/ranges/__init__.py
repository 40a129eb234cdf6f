"""The ranges of a model on a data set: statistics of every tensor that may be quantized."""
