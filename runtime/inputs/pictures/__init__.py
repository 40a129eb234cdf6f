"""Pictures: received, decoded to RGB, cut into tiles, scaled and normalised."""
