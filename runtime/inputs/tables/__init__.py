"""Read tables of pictures and texts: JSONL, JSON, CSV, TSV, Parquet, and archives with captions beside pictures."""
