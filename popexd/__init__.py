"""popexd: early-exit, split neural networks over MQTT. See docs/ for concepts; nothing heavy is imported here."""

__version__ = "0.1.0"
