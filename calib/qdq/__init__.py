"""A recipe written into a graph as QuantizeLinear and DequantizeLinear."""
