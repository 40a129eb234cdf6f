"""The command `run` and the tasks below it."""
