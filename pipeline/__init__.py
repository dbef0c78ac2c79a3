"""The DVC stages: each module reads files, calls `generator` or `reid`, and writes files."""

import os

import pandas as pd

# Loading a model is not news: without these, every load prints progress bars and advice.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# Tables are the same whether pyarrow is installed or not. Its texts cannot hold file names that are no UTF-8.
pd.options.mode.string_storage = "python"
