"""Conversations with a chat model about pictures."""
