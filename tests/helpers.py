"""Where things are, the kit's command, and waiting: for the event, with a limit that only a hang meets."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
STANDIN = ROOT / "tests" / "standin"
SGD = ROOT.parent / "shared" / "data" / "sgd"  # real dialogues, which the project does not ship
HANG_SECONDS = 300


def start(*words: object, **options) -> subprocess.Popen:
    """Starts `grpo-kit` with these words, and the words of stderr among those of stdout."""
    command = [sys.executable, "-m", "grpo_kit.cli", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def shell(folder: Path, *words: object, code: int = 0, **env: str) -> str:
    """All that `grpo-kit` says in this folder, where it ends with this code."""
    process = start(*words, cwd=folder, env=os.environ | env)
    said, _ = process.communicate()
    assert process.returncode == code and "Traceback" not in said, said
    return said


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
