"""Each caption is encoded once."""
