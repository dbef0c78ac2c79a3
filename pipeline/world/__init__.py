"""The embedded world: a procedural person re-identification data set in exact Market-1501 format."""
