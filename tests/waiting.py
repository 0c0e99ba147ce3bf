"""Waiting for what another process does: for the event, with a limit that only a hang meets."""

import time
from collections.abc import Callable

HANG_SECONDS = 300


def wait_until(condition: Callable[[], object], what: str = "it", seconds: float = HANG_SECONDS):
    """Waits until `condition()` is true, and returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def wait_for_step(run, step: int) -> None:
    """Waits until the run has made that step; fails where it ends before."""

    def is_there() -> bool:
        status = run.status
        assert status["step"] >= step or status["state"] in ("queued", "running"), status
        return status["step"] >= step

    wait_until(is_there, f"step {step} of {run.id}")
