"""Resuming a run: its own settings, those that may be changed, and what must be the same as when it was started."""

from pathlib import Path
from typing import Any

from grpo_kit.config.base import names_where
from grpo_kit.config.batching import batches
from grpo_kit.config.gpus import MOST_GPUS, gpu_and_count, most_gpus
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.utils.files import write_json


def config_to_resume(run: RunDirectory, asked: TrainConfig, check: bool = True) -> TrainConfig:
    """The run's settings, with those of `asked` that change no score, and max_steps where a complete run is to make
    more.

    Raises RunError where another setting that is asked for differs from the run's (unless `check` is off: it is left
    aside), and ConfigError for a number of processes that can't share the run's steps.
    """
    # Its name is its folder's, which may have another now; judgements of cache_from were taken over at its start.
    own = run.config.replace(run_id=run.id, cache_from=[])
    if run.checkpoints:  # a checkpoint of shared weights can't be resumed with whole ones, nor the other way round
        own = own.replace(fsdp=run.status.get("fsdp", False))
    own, given, free = _spread(own, asked), asked.given, names_where(TrainConfig, "resume")
    if given.get("fsdp") == "auto":  # which was decided when the run was started
        del given["fsdp"]
    if Path(asked.data).resolve() == Path(own.data).resolve():
        given.pop("data", None)
    if run.status["state"] == "complete" and given.get("max_steps", 0) > own.max_steps:
        free = (*free, "max_steps")
    differing = [
        f"{name}={value!r} (it has {getattr(own, name)!r})"
        for name, value in given.items()
        if value != getattr(own, name) and name not in free
    ]
    if differing and check:
        what = f"run {run.id} was started with other settings: {', '.join(differing)}"
        raise RunError(what, "Leave them out to resume it, or give the new run another run_id")
    return own.replace(**{name: value for name, value in given.items() if name in free})


def is_done(status: dict[str, Any], config: TrainConfig) -> bool:
    """Whether a run with this status is complete and is asked, by `config`, for no more steps."""
    return status.get("state") == "complete" and config.max_steps <= status["max_steps"]


def _spread(own: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """A run's own settings, for as many processes as it is asked to resume with: as many completions a step."""
    count, per_step = asked.num_processes, own.completions_per_step
    if count == own.num_processes or not {"num_processes", "gpu"} & asked.given.keys():
        return own
    if per_step % count:
        work = ", ".join(str(n) for n in range(1, MOST_GPUS + 1) if per_step % n == 0)
        problem = f"num_processes={count} can't share the {per_step} completions a step of run {own.run_id}"
        raise ConfigError(problem, f"Use num_processes={work}")
    kind = gpu_and_count(own.gpu)[0]
    gpu = f"{kind}:{count}" if 1 < count <= most_gpus(kind) else kind
    return own.replace(num_processes=count, gpu=gpu, **batches(per_step // count, own.per_device_train_batch_size))


def check_unchanged(run: RunDirectory, about: dict[str, Any]) -> None:
    """Raises RunError where the run's rewards, their weights, its judges or its data are not those in `about`."""
    own = run.about
    for what, before, after in (
        ("rewards", _weighted(own), _weighted(about)),
        ("versions of its judges (the prompt's text, or the kit)", own["judges"], about["judges"] or own["judges"]),
        (f"data than {about['data']['folder']} holds", own["data"]["fingerprint"], about["data"]["fingerprint"]),
    ):
        if before != after:
            problem = f"run {run.id} was started with other {what}: {before}, not {after}"
            raise RunError(problem, "Use the earlier ones again, or another run_id")


def _weighted(about: dict[str, Any]) -> str:
    """ "offline, length=0.2": the rewards with weights other than 1."""
    weighted = zip(about["rewards"], about["reward_weights"], strict=True)
    return ", ".join(name if weight == 1 else f"{name}={weight:g}" for name, weight in weighted)


def record_settings(run: RunDirectory, config: TrainConfig, about: dict[str, Any]) -> None:
    """Records the settings that a run resumes with and was not started with, and the machine that it is on now.

    Only for the process that holds the run: another that trains it has settings of its own.
    """
    before = run.about
    free = (*names_where(TrainConfig, "resume", "spread"), "max_steps")
    changed = {name: getattr(config, name) for name in free if name != "cache_from"}
    machine = {name: about[name] for name in ("machine", "usd_per_hour")}
    after = {**before, **machine, "settings": before["settings"] | changed}
    if after != before:
        write_json(run.path / "config.json", after)
