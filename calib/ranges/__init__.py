"""Ranges: the statistics of every tensor that may be quantized, measured on a data set."""
