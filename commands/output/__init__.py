"""What commands print: results on stdout; progress, log records and what is not installed on stderr."""
