"""Sweeps: a notebook executed with many settings, several at a time, resumable, with one table of results."""
