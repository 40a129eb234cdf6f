"""What clients speak: Open Inference Protocol v2 over HTTP and gRPC, with an OpenAI-style endpoint for embeddings."""
