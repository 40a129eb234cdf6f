"""A server of a bundle: HTTP and gRPC protocols before one engine, which batches requests for worker processes."""
