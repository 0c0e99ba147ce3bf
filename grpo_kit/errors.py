"""Everything that the user can correct, in one form: what is wrong, where, and what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, or would go wrong."""

    what: str
    fix: str = ""  # what to do about it
    where: str = ""  # a file and its line, or the check that found it
    is_forecast: bool = False  # it may yet go well, so that a launch is not refused

    def __str__(self) -> str:
        if not self.fix:
            return self.what
        return f"{self.what} {self.fix}" if self.what.endswith("?") else f"{self.what}. {self.fix}"


class KitError(Exception):
    """An error that the user can correct. It is shown as one message, without a traceback."""

    def __init__(self, what: str, fix: str = "", where: str = ""):
        self.problem = Problem(what, fix, where)
        super().__init__(str(self.problem))

    def __str__(self) -> str:
        return str(self.problem)


class ConfigError(KitError, ValueError):
    """A setting that cannot work. The message names the setting and what would work."""


class SecretGiven(ConfigError):
    """A setting that may be a secret. A notebook shows the message alone: a traceback would show what was given."""

    def _render_traceback_(self) -> list[str]:
        return [f"ConfigError: {self}"]


class BadTrace(KitError, ValueError):
    """Traces or samples that cannot be used; `where` is "path:line", or a path and the dialogue in it."""

    def __str__(self) -> str:
        return f"{self.problem.where}: {self.problem}"


class RunError(KitError, RuntimeError):
    """A run that does not exist or cannot be resumed. The message says why and what to do."""


class BeingTrained(RunError):
    """A run that another process is training."""

    def __init__(self, run_id: str):
        super().__init__(f"run {run_id} is being trained by another process; watch it, or stop it first")


class OutOfReach(RunError):
    """A run on Modal, which does not answer now."""


class RunStopped(RunError):
    """A run that was ended on purpose before its last step, with a checkpoint. The message says why."""
