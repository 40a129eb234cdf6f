"""One file per graph: its torch module, whose forward is the graph, and its inputs and outputs."""
