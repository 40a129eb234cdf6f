"""Latency of graphs and requests: measurement, summary and report."""
