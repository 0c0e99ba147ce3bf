"""Trains a queued run in a process of its own, here (`python -m grpo_kit.training.worker RUN_DIR`) or on Modal."""

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from grpo_kit.errors import BeingTrained, RunStopped
from grpo_kit.runs.directory import UNFINISHED, RunDirectory
from grpo_kit.runs.writer import RunWriter, only_writer


def work_on(run: RunDirectory, echo: Callable[[str], None], since: datetime | None = None) -> None:
    """Trains a queued run; its status.json says how it ended. `since` is when the machine began to cost; None: now."""
    try:
        from grpo_kit.training.launch import train_queued

        train_queued(run, echo, since)
    except (RunStopped, BeingTrained) as reason:  # a run that another process trains, or has resumed, is that one's
        echo(str(reason))
    except Exception as error:
        with suppress(BeingTrained), only_writer(run):  # it was refused before it began
            if run.status["state"] in UNFINISHED:
                RunWriter(run, run.config).fail(error)
        echo(f"Run {run.id} failed: {run.status['reason']}")


if __name__ == "__main__":
    work_on(RunDirectory(Path(sys.argv[1])), echo=partial(print, flush=True))
