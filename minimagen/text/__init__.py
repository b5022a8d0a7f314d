"""Captions to text encodings."""
