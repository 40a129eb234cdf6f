"""Measurement of calls on one or several streams, and the statistics of their times."""
