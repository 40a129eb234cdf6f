"""A server over a bundle: protocols in front, one engine of batches and workers behind."""
