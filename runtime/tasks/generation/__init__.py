"""Generate text token by token: greedy and beam search, and incremental detokenization."""
