"""Base weights: the small models from which the embedded run fine-tunes."""
