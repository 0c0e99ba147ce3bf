"""Every setting, once: its name, type, default, range, unit and help."""
