"""One process, or several that train together."""
