"""Reports of measurements as text, HTML and JSON, and files for other tools."""
