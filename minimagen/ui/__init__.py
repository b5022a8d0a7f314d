"""A page in the browser: generate, edit, look at runs (gradio, the extra [ui])."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
