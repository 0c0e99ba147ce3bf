"""The formats that traces come in."""
