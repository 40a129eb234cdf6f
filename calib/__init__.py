"""Quantization: calibration data, ranges, recipes, Q/DQ nodes, accuracy gate, reports and evaluation."""
