"""Features of many pictures or texts, batch by batch, into a file."""
