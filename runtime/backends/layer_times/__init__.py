"""Measure how long each layer of a graph takes, by the means of each backend."""
