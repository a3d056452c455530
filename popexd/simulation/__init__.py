"""The daemon's brain on a virtual clock."""
