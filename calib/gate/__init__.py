"""What quantization costs: on a task, and site by site."""
