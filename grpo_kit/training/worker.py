"""Trains a queued run in a process of its own, here (`python -m grpo_kit.training.worker RUN_DIR`) or on Modal."""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from grpo_kit.errors import RunError, RunStopped
from grpo_kit.rewards.travel import load_rewards
from grpo_kit.runs.directory import REWARDS_FILE, UNFINISHED, RunDirectory


def work_on(run: RunDirectory, echo: Callable[[str], None], **changes) -> None:
    """Trains a queued run, with the reward functions that lie in its folder. How it ended is in its status.json."""
    from grpo_kit.runs.writer import RunWriter, only_writer

    try:
        rewards = load_rewards((run.path / REWARDS_FILE).read_bytes()) if (run.path / REWARDS_FILE).exists() else []
        from grpo_kit.training.launch import train

        train(run_id=run.id, rewards=rewards, runs_dir=run.path.parent, echo=echo, **changes)
    except RunStopped as reason:
        echo(str(reason))
    except Exception as error:
        # It was refused before it began; where that is because another process trains it, the run is that one's.
        with suppress(RunError), only_writer(run):
            if run.status["state"] in UNFINISHED:
                RunWriter(run, run.config).fail(error)
        echo(f"Run {run.id} failed: {run.status['reason']}")


if __name__ == "__main__":
    work_on(RunDirectory(Path(sys.argv[1])), echo=partial(print, flush=True))
