"""The progress bar of terminals and, where ipywidgets is installed, of notebooks."""

import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():  # without ipywidgets a notebook shows the terminal's bar
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
