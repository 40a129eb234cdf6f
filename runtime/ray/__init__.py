"""Bulk embedding and serving on a Ray cluster."""
