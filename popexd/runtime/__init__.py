"""Runs model segments; the only door to onnxruntime."""
