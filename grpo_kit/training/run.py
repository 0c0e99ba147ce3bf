"""One process's part of a run: the directory opened and held, the judges ready, the trainer driven to the end.

Needs no torch. It takes `build_trainer` from grpo_kit.training.grpo when a run begins, so a test can put a module of
its own in sys.modules["grpo_kit.training.grpo"] whose trainer, without torch, drives the same RunProgress.
"""

from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Protocol

from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.errors import ConfigError, RunStopped
from grpo_kit.judges.batch import run_async
from grpo_kit.judges.cache import CACHE_FILE, RewardCache
from grpo_kit.judges.canaries import complaint, try_canaries
from grpo_kit.rewards.judge_reward import FailureWatch, JudgeReward, TooManyFailures
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.runs.writer import NullRunWriter, RunWriter, only_writer
from grpo_kit.training.peak_memory import peak_gib, start_peak
from grpo_kit.training.plan import Plan
from grpo_kit.training.progress import RunProgress
from grpo_kit.utils.environment import rank
from grpo_kit.utils.garbage import loading_libraries


class Trainer(Protocol):
    """What `build_trainer` returns."""

    def train_from(self, checkpoint: Path | None) -> None:
        """Trains to max_steps, from the checkpoint where there is one. Raises RunStopped where it ends before."""

    def save_into_run(self) -> None:
        """Puts the final weights into the run directory."""


def train_planned(
    run: RunDirectory, plan: Plan, echo: Callable[[str], None], since: datetime | None = None
) -> RunDirectory:
    """Trains an opened run in this process, as rank 0 or beside it, and returns it. Raises as `plan_and_train` does."""
    if rank():
        _load()
        with NullRunWriter(run, plan.config) as writer:
            _train(plan, writer, echo=lambda text: None)
        return run
    with only_writer(run):
        _load()
        with RunWriter(run, plan.config, run.about["usd_per_hour"], since) as writer:
            _train(plan, writer, echo)
    echo(f"Done in {run.status['seconds']:.0f} s: {run.path}")
    return run


def _load() -> None:
    """Loads torch and TRL, which takes seconds, before the run's clock starts."""
    with loading_libraries():
        import grpo_kit.training.grpo  # noqa: F401


def _train(plan: Plan, writer: RunWriter, echo: Callable[[str], None]) -> None:
    """Trains from the run's last checkpoint to its end."""
    from grpo_kit.training.grpo import build_trainer

    config, run = plan.config, writer.run
    start_peak()
    with closing(RewardCache(run.path / CACHE_FILE)) as cache:
        writer.judged_usd, writer.peak_gib = lambda: _judged_usd(plan), peak_gib
        watch = FailureWatch(config.max_failure_rate, config.failure_window)
        samples = {sample.id: sample for sample in plan.samples}
        judges = {JudgeReward(judge, cache, watch, samples): weight for judge, weight in plan.judges.items()}
        try:
            checkpoint = writer.rewind()
            with closing(RunProgress(writer, echo)) as progress:
                if not rank():
                    resumed = f", resumed from {checkpoint.name}" if checkpoint else ""
                    progress.say(f"Run {run.id}: {run.path}{resumed}")
                    _prepare(plan, cache, watch, progress, is_new=checkpoint is None)
                trainer: Trainer = build_trainer(
                    config, plan.samples, {**judges, **plan.functions}, len(judges), progress
                )
                trainer.train_from(checkpoint)
                trainer.save_into_run()
        except KeyboardInterrupt:
            echo(f"Stopped at step {writer.status['step']}. To go on: grpo-kit train --run-id {run.id}")
            raise
        finally:
            for reward in judges:
                reward.close()
            plan.close()


def _prepare(plan: Plan, cache: RewardCache, watch: FailureWatch, progress: RunProgress, is_new: bool) -> None:
    """Tries the judges on canaries and checks the budget, before the model is loaded."""
    run = progress.run
    if plan.is_demo:
        progress.say(f"There is no {DEFAULT_DATA}/train.jsonl, so it trains on the samples that come with the kit")
    if is_new and plan.config.canaries != "off":
        _release_canaries(plan, cache, watch, progress)
    if why := progress.budget.see_start():
        raise RunStopped(f"{why}. Stopped before anything was loaded; run_id {run.id} goes on")


def _judged_usd(plan: Plan) -> float | None:
    """What the judges have cost so far, in dollars; None where a price is not known."""
    spent = [judge.usage.usd for judge in plan.judges if judge.usage]
    return None if None in spent else sum(usd or 0.0 for usd in spent)


def _release_canaries(plan: Plan, cache: RewardCache, watch: FailureWatch, progress: RunProgress) -> None:
    """Tries the judges on answers that are worth nothing. One that rewards them is warned of, or raises ConfigError."""
    for judge in plan.judges:
        results, made = run_async(try_canaries(judge, cache, plan.samples, seed=plan.config.seed))
        try:
            watch.see(judge.name, made)
        except TooManyFailures as error:
            raise RunStopped(f"{error}. Stopped before the first step; run_id {progress.run.id} starts it") from None
        if problem := complaint(judge, results):
            if plan.config.canaries == "block":
                raise ConfigError(f"{problem}. canaries=warn trains all the same")
            progress.say(f"Warning: {problem}")
