"""Batching and fair queueing of rows, as plain data with the time as an argument: no clock, no process."""
