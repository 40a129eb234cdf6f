"""Decode pictures to RGB, cut them into tiles, scale and normalise them."""
