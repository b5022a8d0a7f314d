"""Does the picture show what the caption says?"""
