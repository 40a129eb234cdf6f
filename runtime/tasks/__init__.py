"""What a bundle is asked for: features, similarity, classes, captions, matching, videos, connector features."""
