"""Which backend `auto` takes for a graph: what is installed, tried on sample inputs, remembered for this machine."""
