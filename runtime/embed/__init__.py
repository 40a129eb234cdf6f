"""Bulk embedding: the features of many pictures or texts are computed in batches and written to a file."""
