"""What a call costs on this device: measured, stated with its uncertainty, and written for people and tools."""
