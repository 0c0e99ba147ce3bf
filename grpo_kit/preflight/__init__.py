"""What is checked before a run starts, and its quote."""
