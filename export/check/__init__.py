"""Compare graphs with the torch modules, and bundles with each other block by block."""
