"""Recipes: what is done to the weights and graphs of a model to quantize it, decided from its ranges."""
