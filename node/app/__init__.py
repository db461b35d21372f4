"""Wiring: which adapters a command needs, and in which order they start and stop."""
