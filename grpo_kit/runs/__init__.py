"""The run directory: how it is read, written, stored and resumed."""
