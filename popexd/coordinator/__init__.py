"""The brain: `Coordinator.handle(event, now) -> effects`. No clock, no thread, no socket, no file."""
