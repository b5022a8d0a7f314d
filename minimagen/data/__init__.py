"""Files and embedded data to captioned images."""
