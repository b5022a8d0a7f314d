"""Does the image show what the caption describes?"""
