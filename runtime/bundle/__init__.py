"""A bundle on disk: its manifest, files and digests, plans, tokenizer, preprocessing, and the roles of its graphs."""
