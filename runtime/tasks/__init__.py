"""Tasks on an opened bundle: features, similarity, classes, captions, matching, videos, connector features."""
