"""The same work on a cluster of Ray: bulk embedding, and a Serve application."""
