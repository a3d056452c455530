"""From data to bundle; the only door to torch and torchvision."""
