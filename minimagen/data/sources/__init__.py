"""Rows of images and captions from anywhere."""
