"""Going on with a run that is there: its own settings, those of them that may be changed, and where it is done."""

from pathlib import Path

from grpo_kit.config.base import names_where
from grpo_kit.config.batching import batches
from grpo_kit.config.gpus import MOST_GPUS, gpu_and_count
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory, is_run
from grpo_kit.utils.files import write_json


def resume_config(config: TrainConfig, runs_dir: str | Path = RUNS_DIR) -> TrainConfig:
    """`config`, or where its run_id is there already, the settings of that run, but for those that change no score.

    Raises RunError where another setting that was asked for is not the run's own.
    """
    if not config.run_id or not is_run(Path(runs_dir) / config.run_id):
        return config
    return with_settings_of(RunDirectory(config.run_id, runs_dir), config)


def with_settings_of(run: RunDirectory, config: TrainConfig) -> TrainConfig:
    """The run's settings, but for those of `config` that change no score. Raises RunError for others that differ, and
    ConfigError for a number of processes that can't share its steps."""
    own, given = _own(run, config), config.given
    if "data" in given and Path(given["data"]).resolve() == Path(own.data).resolve():
        given["data"] = own.data
    if given.get("fsdp") == "auto":  # which was decided when it was started
        given["fsdp"] = own.fsdp
    differing = [
        f"{name}={value!r} (it has {getattr(own, name)!r})"
        for name, value in given.items()
        if value != getattr(own, name) and name not in names_where(TrainConfig, "resume")
    ]
    if differing:
        raise RunError(
            f"run {run.id} was started with other settings: {', '.join(differing)}. "
            f"Leave them out to resume it, or give the new run another run_id."
        )
    return to_go_on_with(run, config)


def to_go_on_with(run: RunDirectory, config: TrainConfig) -> TrainConfig:
    """The run's settings, with those of `config` that may be changed; what else it asks for is left aside."""
    free = names_where(TrainConfig, "resume")
    return _own(run, config).replace(**{name: value for name, value in config.given.items() if name in free})


def _own(run: RunDirectory, config: TrainConfig) -> TrainConfig:
    """The run's settings, for as many processes as `config` asks for. Once some of it is saved, its weights stay shared
    out among them, or whole, as they were: a checkpoint of the one can't be gone on with by the other."""
    own = run.config
    if run.checkpoints:
        own = own.replace(fsdp=run.status.get("fsdp", False))
    return spread(own, config)


def is_complete(run_id: str | None, runs_dir: str | Path = RUNS_DIR) -> bool:
    """Whether there is such a run and it has nothing left to do."""
    return (
        bool(run_id)
        and is_run(Path(runs_dir) / run_id)
        and RunDirectory(run_id, runs_dir).status["state"] == "complete"
    )


def keep_changed_settings(run: RunDirectory, config: TrainConfig, now: dict) -> None:
    """Writes down settings that a run is gone on with and was not started with, and where that is done now. For who
    holds the run: else another process trains it, with settings of its own."""
    about = run.about
    free = names_where(TrainConfig, "resume", "spread")
    changed = {name: getattr(config, name) for name in free if name != "cache_from"}
    place = {name: now[name] for name in ("machine", "usd_per_hour")}
    after = {**about, **place, "settings": about["settings"] | changed}
    if after != about:
        write_json(run.path / "config.json", after)


def spread(own: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """A run's own settings, for as many processes as it is asked to go on with: as many completions a step.

    Raises ConfigError where they can't share them evenly, or one alone can't have all the weights.
    """
    count, per_step = asked.num_processes, own.completions_per_step
    if count == own.num_processes or not {"num_processes", "gpu"} & asked.given.keys():
        return own
    if own.fsdp is True and count == 1:
        raise ConfigError(
            f"the weights of run {own.run_id} are shared out among processes (fsdp), and one can't go on with it "
            f"alone. Use num_processes=2 or more"
        )
    if per_step % count:
        work = ", ".join(str(n) for n in range(1, MOST_GPUS + 1) if per_step % n == 0)
        raise ConfigError(
            f"num_processes={count} can't share the {per_step} completions a step with which run {own.run_id} was "
            f"started. It can go on with num_processes={work}"
        )
    kind = gpu_and_count(own.gpu)[0]
    gpu = f"{kind}:{count}" if 1 < count <= MOST_GPUS else kind
    return own.replace(num_processes=count, gpu=gpu, **batches(per_step // count, own.per_device_train_batch_size))
