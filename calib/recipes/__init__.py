"""What is done to a model to quantize it, decided from its ranges."""
