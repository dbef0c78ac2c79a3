"""What the packages share and none of them owns: random draws, the base of all settings, checkpoints."""
