"""Data sets and folders of images as they lie on the disk, and the way from a file to pixels."""
