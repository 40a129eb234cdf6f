"""Tile sizes of kernels for each SM: a cost model, occupancy, and the table that a search with it wrote."""
