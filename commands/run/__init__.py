"""The command `run` and its subcommands, one for each task."""
