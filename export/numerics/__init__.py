"""What 16 bits do to a graph: rounding and ranges of every value in it, and the nodes that have to stay in fp32."""
