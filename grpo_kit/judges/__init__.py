"""Judges, which score answers, and what keeps them honest: the cache, canaries and calibration."""
