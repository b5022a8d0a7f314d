"""Tables of image URLs to tar shards."""
