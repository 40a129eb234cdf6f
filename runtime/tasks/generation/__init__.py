"""Token by token: the search for the next ones, and the text that grows with them."""
