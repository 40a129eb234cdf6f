"""Clocks, temperatures, power and throttling of the board while it is measured."""
