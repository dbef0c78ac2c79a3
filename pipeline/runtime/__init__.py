"""What every stage runs on: outputs, checkpoints, worker processes, pages and the command line."""
