"""Tokenize prompts and decode answers of chat models as the reference does, without transformers (CHAT.md 6, 12)."""
