"""The agent: the daemon on the device."""
