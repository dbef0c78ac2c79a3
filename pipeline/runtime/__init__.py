"""What stages and tools run on: outputs, scratch folders, worker processes, pages, the command line."""
