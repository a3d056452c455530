"""What early exits are worth, and how they are calibrated; numpy, scipy and ONNX Runtime, never torch."""
