"""What ``tools/make_tour.py`` is made of: sheets, chapters, the page and the notebook."""
