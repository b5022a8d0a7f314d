"""Rows to samples: decoding, framing, buckets."""
