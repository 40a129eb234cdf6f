"""Readings of power, temperature, clock and throttling of the device during a measurement."""
