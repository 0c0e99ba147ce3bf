"""A smoke run: one real step on the real machine, from which the whole run is then quoted."""

from datetime import datetime
from pathlib import Path
from typing import Any

from grpo_kit.backends.quote import quote
from grpo_kit.backends.start import start
from grpo_kit.backends.watch import watch
from grpo_kit.config.backend import chosen_backend
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import remember
from grpo_kit.errors import RunError
from grpo_kit.preflight.quote import Quote
from grpo_kit.rewards.travel import Rewards
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.utils.text import dollars, duration


def smoke(
    config: TrainConfig | None = None,
    *,
    rewards: Rewards = (),
    runs_dir: str | Path = RUNS_DIR,
    backend: str | None = None,
    **settings: Any,
) -> Quote:
    """Makes one real step, as a run of its own called smoke_YYYYMMDD_HHMMSS, and quotes the whole run from it.

    The step's seconds and the memory at its peak are measured where the run will be made: on Modal's GPU, or in a
    process here. It is a first step, which is slower than those after it. `backend`: "local" or "modal"; None: the
    chosen one. Raises what a launch raises, and RunError where the step could not be made.
    """
    config, backend = (config or TrainConfig()).replace(**settings), backend or chosen_backend()
    steps = config.num_iterations  # which share their completions
    trial = config.replace(run_id=f"smoke_{datetime.now():%Y%m%d_%H%M%S}", max_steps=steps, save_steps=steps)
    run = watch(start(trial, rewards, runs_dir, on_modal=backend == "modal"))
    if (status := run.status)["state"] != "complete":
        raise RunError(f"the smoke run {run.id} is {status['state']}: {status['reason']}")
    if backend == "modal":
        remember(run, runs_dir)
    step, actual = run.metrics().iloc[0], status["actual"]
    parts = ", ".join(f"{part} {step[f'seconds/{part}']:.1f}" for part in ("generating", "judging", "updating"))
    usd = "dollars not known" if actual["usd"] is None else dollars(actual["usd"])
    print(
        f"One step took {step['step_time']:.1f} s ({parts}), the run {duration(60 * actual['minutes'])}, at most "
        f"{actual['memory_gib']:.1f} GiB and {usd}. From that, the whole run:"
    )
    return quote(config, runs_dir, backend, by=run.id, ask=False)
