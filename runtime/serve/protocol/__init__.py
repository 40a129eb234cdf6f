"""The protocols: Open Inference Protocol v2 over HTTP and gRPC, and an OpenAI-style endpoint for embeddings."""
