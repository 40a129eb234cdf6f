"""Write the results of commands: files, the standard output and JSON."""
