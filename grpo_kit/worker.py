"""`python -m grpo_kit.worker RUN_DIR`: what trains a run that was queued, in a process of its own, here or on Modal."""

import linecache
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import cloudpickle

from grpo_kit.runs import REWARDS_FILE, UNFINISHED, Run, RunError, RunStopped


def work_on(run: Run, echo: Callable[[str], None], **changes) -> None:
    """Trains a queued run, with the reward functions that lie in its folder. How it ended is in its status.json."""
    from grpo_kit.writing import RunWriter, only_writer

    try:
        rewards = load_rewards((run.path / REWARDS_FILE).read_bytes()) if (run.path / REWARDS_FILE).exists() else []
        from grpo_kit.training import train

        train(run_id=run.id, rewards=rewards, runs_dir=run.path.parent, echo=echo, **changes)
    except RunStopped as reason:
        echo(str(reason))
    except Exception as error:
        # It was refused before it began; where that is because another process trains it, the run is that one's.
        with suppress(RunError), only_writer(run):
            if run.status["state"] in UNFINISHED:
                RunWriter(run, run.config).fail(error)
        echo(f"Run {run.id} failed: {run.status['reason']}")


def load_rewards(pickled: bytes) -> list | dict:
    """The reward functions as they were given, a list or a dictionary of weights. Raises RunError."""
    try:
        rewards, sources = cloudpickle.loads(pickled)
    except Exception as error:  # whatever unpickling runs may raise
        raise RunError(
            f"the reward functions can't be loaded where the run is made ({type(error).__name__}: {error}). Define "
            f"them in the notebook, with the imports they need inside them, from packages that are there too"
        ) from None
    for file, lines in sources.items():  # so that a traceback has the lines of cells and files that are not here
        linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
    return rewards


if __name__ == "__main__":
    work_on(Run(Path(sys.argv[1])), echo=partial(print, flush=True))
