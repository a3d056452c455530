"""Message transports behind one small class."""
