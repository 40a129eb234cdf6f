"""OpenAI's endpoints: embeddings, chat completions and the list of models."""
