"""What a run takes: memory, time and dollars."""
