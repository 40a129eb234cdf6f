"""Processes that hold a model each, and how they are spoken to, watched and restarted."""
