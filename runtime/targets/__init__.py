"""Devices that plans are built for, and the TensorRT libraries on this machine that build for them."""
