"""What commands write: files, stdout and JSON, each by one rule for all commands."""
