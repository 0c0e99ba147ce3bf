"""Models by name: found, loaded, generated with, merged and talked to."""
