"""The work on Modal's machines: launched here, done in a container, synced to a volume under a lease."""
