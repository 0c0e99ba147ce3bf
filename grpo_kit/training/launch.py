"""Training as it is asked for: a run is planned and opened, then trained in this process or in several."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import LOCAL, Launch
from grpo_kit.rewards.travel import Rewards, pickled_rewards
from grpo_kit.runs.directory import REWARDS_FILE, RUNS_DIR, RunDirectory
from grpo_kit.training.plan import make_plan, open_planned, plan_of
from grpo_kit.training.processes import train_in_processes
from grpo_kit.training.run import train_planned
from grpo_kit.utils.environment import processes
from grpo_kit.utils.files import write_bytes


def plan_and_train(
    config: TrainConfig | None = None,
    *,
    rewards: Rewards = (),
    runs_dir: str | Path = RUNS_DIR,
    echo: Callable[[str], None] = tqdm.write,
    launch: Launch = LOCAL,
    **settings,
) -> RunDirectory:
    """Trains `config.model_name` by GRPO and returns the run, whose directory holds everything.

    `settings` are TrainConfig's, in place of a config or to change one. `rewards` are plain TRL reward functions, with
    their weights in a dictionary or with weight 1 in a list, whose scores are added to the judges'. A run_id that is
    there already resumes from its last checkpoint, and is left alone where it is complete. `launch` says what only the
    launcher knows. Raises ConfigError for settings that cannot work, BadTrace for data that is not valid, RunError for
    a run that cannot be resumed, and RunStopped, with the last step saved, where it was asked to stop, where too many
    judgements failed, or where the next step would pass max_usd.
    """
    plan = make_plan((config or TrainConfig()).replace(**settings), rewards, runs_dir, launch)
    run = open_planned(plan, runs_dir, launch, echo)
    if run.status["state"] == "complete":
        echo(f"Run {run.id} is complete: {run.path}")
        return run
    if launch.notice:
        echo(launch.notice)
    if plan.config.num_processes == 1:
        return train_planned(run, plan, echo)
    plan.close()
    if rewards:
        write_bytes(run.path / REWARDS_FILE, pickled_rewards(rewards))
    return train_in_processes(run, echo, since=datetime.now(UTC))


def train_queued(run: RunDirectory, echo: Callable[[str], None], since: datetime | None = None) -> RunDirectory:
    """Trains a run that was opened elsewhere, with the reward functions that lie in its folder; returns it.

    `since` is when the machine began to cost; None: now. Raises as `plan_and_train` does.
    """
    if run.config.num_processes > processes():
        return train_in_processes(run, echo, since or datetime.now(UTC))
    return train_planned(run, plan_of(run), echo, since)
