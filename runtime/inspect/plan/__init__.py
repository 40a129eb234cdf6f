"""A reader of TensorRT-RTX plans: program, kernel launches, memory traffic and FLOPs, from the plan's bytes."""
