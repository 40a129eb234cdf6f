"""Output of commands: results on stdout; progress, log records and missing packages on stderr."""
