"""The DVC stages: each module reads files, calls `generator` or `reid`, and writes files."""

import os

# Loading a model is not news: without these, every load prints progress bars and advice.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
