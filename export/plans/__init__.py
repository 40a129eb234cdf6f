"""Plans of a bundle for a device: each graph in its target's dialect, built here or packed as a kit."""
