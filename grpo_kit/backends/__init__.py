"""Where the work is done, and the handle on a run: this machine, or Modal."""
