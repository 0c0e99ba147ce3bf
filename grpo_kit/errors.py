"""What goes wrong with runs. (Settings have settings.py's ConfigError, data samples.py's BadTrace.)"""


class RunError(RuntimeError):
    """A run that is not there, or cannot be gone on with. The message says why and what to do."""


class OutOfReach(RunError):
    """A run that is elsewhere, which can't be asked after now."""


class RunStopped(RunError):
    """A run that was ended before its time, on purpose and with its last step saved. The message says why."""
