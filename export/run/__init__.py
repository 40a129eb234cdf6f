"""One export: its options, the opened checkpoint and samples, and the folder where stages put their results."""
