"""HTTP connections: time limits of reading and writing, admission of requests, and coalescing of writes."""
