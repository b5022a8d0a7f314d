"""Files and embedded data to captioned pictures."""
