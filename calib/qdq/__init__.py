"""Passes that write a recipe into a graph, as QuantizeLinear and DequantizeLinear nodes."""
