"""The loss of accuracy by quantization: on a task (the accuracy gate), and of each site alone (sensitivity)."""
