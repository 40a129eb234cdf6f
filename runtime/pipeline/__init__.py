"""Pictures in bulk: read and scaled while the graph runs, gathered into batches, remembered, written in shards."""
