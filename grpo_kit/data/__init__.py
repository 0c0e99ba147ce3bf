"""Traces in, samples out: the readers of trace formats, what a sample is, rubrics, and the split in two."""
