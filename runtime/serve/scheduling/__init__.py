"""Which rows leave together, when, and whose turn it is: plain data and a given time, no clock and no worker."""
