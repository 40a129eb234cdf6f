"""Read the configuration files of a checkpoint, and refuse fields and values that are not supported."""
