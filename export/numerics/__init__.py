"""Measure rounding and overflow of 16-bit values in a graph, and keep the nodes that overflow in fp32."""
