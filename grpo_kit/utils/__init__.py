"""Helpers that every room uses: files, text, statistics, and the environment of this process."""
