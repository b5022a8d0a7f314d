"""Rows of images and captions from anywhere.

Whatever is wrong with a source as a whole is a UserError; what is wrong with one row of images that
are read later is a BadSampleError.
"""
