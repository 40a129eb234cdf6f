"""Tables of pictures and texts: JSONL, CSV, Parquet, captions beside pictures, shards."""
