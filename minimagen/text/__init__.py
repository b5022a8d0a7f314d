"""Captions to embeddings: the frozen text encoder."""
