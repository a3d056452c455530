"""Renders, checks and runs a real Mosquitto."""
