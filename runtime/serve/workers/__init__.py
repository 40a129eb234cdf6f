"""Worker processes with a model each: their messages, their supervision and their restarts."""
