"""Speed, memory, growth and time to quality, beside diffusers; see README.md here."""
