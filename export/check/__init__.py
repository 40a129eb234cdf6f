"""Graphs held against the torch modules, and bundles against each other, block by block."""
