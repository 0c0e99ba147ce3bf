"""Checks before a run starts, and its quote."""
