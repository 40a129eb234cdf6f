"""Weights on their way from the checkpoint's files to the bundle's store."""
