"""The quantization report, as data and as a page."""
