"""Ranges, scales, Q/DQ and error reports: the room that quantization moves into."""
