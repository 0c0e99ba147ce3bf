"""One process's part of a run: the directory opened and held, the judges ready, the trainer driven to the end.

Needs no torch. It takes `build_trainer` from grpo_kit.training.grpo when a run begins, so a test can put a module of
its own in sys.modules["grpo_kit.training.grpo"] whose trainer, without torch, drives the same RunProgress.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.errors import BeingTrained, ConfigError, RunStopped
from grpo_kit.judges.batch import run_async
from grpo_kit.judges.cache import CACHE_FILE, RewardCache
from grpo_kit.judges.canaries import complaint, try_canaries
from grpo_kit.rewards.judge_reward import FailureWatch, JudgeReward, TooManyFailures
from grpo_kit.runs.directory import UNFINISHED, RunDirectory, place_of
from grpo_kit.runs.writer import NullRunWriter, RunWriter, mark_queued, only_writer
from grpo_kit.training.peak_memory import peak_gib, start_peak
from grpo_kit.training.plan import Plan
from grpo_kit.training.progress import RunProgress
from grpo_kit.training.rollout import Rollout, Speaker
from grpo_kit.utils.environment import rank
from grpo_kit.utils.garbage import loading_libraries


def train_planned(run: RunDirectory, plan: Plan, echo: Callable[[str], None], since: datetime | None = None) -> None:
    """Trains an opened run in this process, as rank 0 or beside it. Raises as `plan_and_train` does."""
    since = since or datetime.now(UTC)
    with nullcontext() if rank() else only_writer(run):
        if not rank():
            mark_queued(run, "loading PyTorch and TRL")
        with loading_libraries():  # which takes seconds
            from grpo_kit.training.grpo import build_trainer
        kind = NullRunWriter if rank() else RunWriter
        with kind(run, plan.config, run.about["usd_per_hour"], since) as writer:
            _train(plan, writer, echo, build_trainer)
    echo(f"Done in {run.status['seconds']:.0f} s: {run.path}")


def record_end(run: RunDirectory, error: BaseException) -> bool:
    """Writes down, and tells, that `error` ended the run, unless its end is known already or another process trains it.
    Returns whether it did."""
    with suppress(BeingTrained), only_writer(run):
        if run.status["state"] in UNFINISHED:
            RunWriter(run, run.config).end(error)
            return True
    return False


def _train(plan: Plan, writer: RunWriter, echo: Callable[[str], None], build_trainer: Callable) -> None:
    """Trains from the run's last checkpoint to its end."""
    config, run = plan.config, writer.run
    start_peak()
    with closing(plan), closing(RewardCache(run.path / CACHE_FILE)) as cache, ExitStack() as asking:
        writer.judged_usd, writer.peak_gib = plan.judged_usd, peak_gib
        watch = FailureWatch(config.max_failure_rate, config.failure_window)
        samples = {sample.id: sample for sample in [*plan.samples, *plan.held_out]}
        judges = {JudgeReward(judge, cache, watch, samples): weight for judge, weight in plan.judges.items()}
        for reward in judges:
            asking.callback(reward.close)
        checkpoint = writer.rewind()
        try:
            with closing(RunProgress(writer, echo, plan.held_out)) as progress:
                if not rank():
                    _begin(plan, cache, watch, progress, checkpoint)
                writer.begin("loading the model")
                if config.sft_steps and not checkpoint:
                    from grpo_kit.training.sft import warm_up

                    warm_up(plan.to_imitate, progress)
                    writer.begin("loading the model")
                speaker = Speaker(plan.user[0], cache, watch) if plan.user else None
                everyone = [*samples.values()]
                rollout = Rollout(everyone, config, progress.say, speaker) if config.environment else None
                trainer = build_trainer(plan.samples, {**judges, **plan.functions}, progress, rollout)
                if config.filter_difficulty:
                    from grpo_kit.training.difficulty import keep_what_teaches

                    writer.begin("measuring the prompts' difficulty")
                    keep_what_teaches(trainer, plan, cache, progress)
                trainer.train_from(checkpoint)
                trainer.save_into_run()
        except KeyboardInterrupt:
            echo(f"Stopped at {place_of(writer.status)}. To resume: grpo-kit train --run-id {run.id}")
            raise


def _begin(plan: Plan, cache: RewardCache, watch: FailureWatch, progress: RunProgress, checkpoint: Path | None) -> None:
    """Tries the judges of a new run on canaries and checks the budget, before the model is loaded."""
    run = progress.run
    progress.say(f"Run {run.id}: {run.path}" + (f", resumed from {checkpoint.name}" if checkpoint else ""))
    for warning in progress.writer.warnings:
        progress.say(f"Warning: {warning}")
    if plan.about["data"]["folder"] == DEFAULT_DATA:
        progress.say(f"There is no {DEFAULT_DATA}/train.jsonl, so it trains on the kit's own samples")
    for caveat in filter(None, (judge.caveat(plan.samples) for judge in plan.judges)):
        progress.say(f"Warning: {caveat}")
    for judge in plan.judges if checkpoint is None and plan.config.canaries != "off" else ():
        results, made = run_async(try_canaries(judge, cache, plan.samples, seed=plan.config.seed))
        try:
            watch.see(judge.name, made)
        except TooManyFailures as error:
            raise RunStopped(f"{error}. Stopped before the first step; run_id {run.id} starts it") from None
        if (problem := complaint(judge, results)) and plan.config.canaries == "block":
            raise ConfigError(str(problem), "canaries=warn trains with it all the same")
        if problem:
            progress.say(f"Warning: {problem}")
    if why := progress.budget.see_start():
        raise RunStopped(f"{why}. Stopped before anything was loaded; run_id {run.id} resumes it")
