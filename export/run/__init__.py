"""One export: what was asked for, what it is of, and the folder where its stages leave their results."""
