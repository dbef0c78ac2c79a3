"""What several stages and tools compute with: the generator, judges, statistics and the model card."""
