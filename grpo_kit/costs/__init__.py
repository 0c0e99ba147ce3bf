"""Forecasts of the memory, time and dollars that a run takes, and its budget."""
