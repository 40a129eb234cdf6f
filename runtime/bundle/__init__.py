"""A bundle on disk: its manifest, files and digests, plans, tokenizer, preprocessing, and what its graphs are for."""
