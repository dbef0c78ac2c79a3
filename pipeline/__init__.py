"""The DVC stages: each module reads files, calls `generator` or `reid`, and writes files."""
