"""What the packages share and none of them owns: random draws and the base of all settings."""
