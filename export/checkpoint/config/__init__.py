"""The configuration files of a checkpoint: which fields they have, what they say, what is refused."""
