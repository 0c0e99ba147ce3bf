"""What goes wrong with runs. (Settings have settings.py's ConfigError, data samples.py's BadTrace.)"""


class RunError(RuntimeError):
    """A run that is not there, or cannot be gone on with. The message says why and what to do."""


class BeingTrained(RunError):
    """A run that another process holds."""

    def __init__(self, run_id: str):
        super().__init__(f"run {run_id} is being trained by another process; watch it, or stop that one")


class OutOfReach(RunError):
    """A run that is elsewhere, which can't be asked after now."""


class RunStopped(RunError):
    """A run that was ended before its time, on purpose and with its last step saved. The message says why."""
