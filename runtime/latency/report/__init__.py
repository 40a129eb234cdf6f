"""What a measurement says, as text, HTML, JSON, and the files that other tools read."""
