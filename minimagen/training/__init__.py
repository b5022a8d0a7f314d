"""One loop that trains any stage."""
