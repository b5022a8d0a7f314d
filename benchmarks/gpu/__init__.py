"""What a GPU is asked: speed of a step, quality in a few minutes, the tests that need one."""
