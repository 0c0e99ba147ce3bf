"""The work of Modal's containers: the kit's own functions, between bringing what is on the volumes and committing."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import modal
import psutil

from grpo_kit.backends.modal.client import DATA_VOLUME, MODELS_VOLUME, RUNS_VOLUME, volume
from grpo_kit.backends.modal.lease import Lease, acquire_lease, lease_new_run
from grpo_kit.backends.modal.sync import RunSync
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Launch
from grpo_kit.data.demo import DATA_FILES, DEFAULT_DATA, DEMO_CALLS
from grpo_kit.data.samples import fingerprint
from grpo_kit.errors import ConfigError, KitError, RunError
from grpo_kit.judges.cache import CACHE_FILE
from grpo_kit.models.load import download_model
from grpo_kit.rewards.travel import PYTHON, TRUSTED, load_rewards
from grpo_kit.runs.directory import REWARDS_FILE, STOP_FILE, WORKER_FILE, RunDirectory, checkpoint_step, is_run
from grpo_kit.runs.writer import WHY_INTERRUPTED, RunWriter, mark_queued
from grpo_kit.training.launch import work_on
from grpo_kit.training.plan import own_rewards, queue
from grpo_kit.utils.files import as_json, write_bytes

DATA, CHECKPOINTS, MODELS = Path("/data"), Path("/checkpoints"), Path("/models")
MOUNTED = {str(DATA): DATA_VOLUME, str(CHECKPOINTS): RUNS_VOLUME, str(MODELS): MODELS_VOLUME}
RUNS = CHECKPOINTS / "runs"
HERE = Path("/tmp/grpo_kit/runs")  # the container's own disk


def returns_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has `function` return the errors that the user can correct: Modal would call what raises again."""

    @wraps(function)
    def returning(*args: Any, **options: Any) -> Any:
        os.environ[TRUSTED] = "1"  # for the processes of a run too
        os.environ[WHY_INTERRUPTED] = "Modal took its container away; the next container resumes the run"
        try:
            return function(*args, **options)
        except KitError as error:
            return error

    return returning


@returns_errors
def open_run(settings: dict[str, Any], rewards: bytes | None, python: str, launch: Launch) -> tuple[str, bool]:
    """Checks a run before a GPU is asked for, fetches its model, and makes its directory on the volume.

    `settings` are TrainConfig's that were given, `rewards` the reward functions cloudpickled by `python` ("3.11").
    Returns the run's id, and whether it is complete already.
    """
    if rewards and python != PYTHON:
        what = f"the reward functions were pickled by Python {python}, which the app's Python {PYTHON} can't read"
        raise ConfigError(what, f"Deploy the app again with kit.deploy(), or run the notebook with Python {PYTHON}")
    run_id, new_name = settings.get("run_id"), f"grpo_{datetime.now():%Y%m%d_%H%M%S}"
    lease = acquire_lease(run_id, _call_id(), step=0) if run_id else lease_new_run(new_name, _call_id())
    sync = _sync(lease)
    known = sync.pull()
    settings = _with_prompt_file(settings, sync.local) | {"run_id": lease.run_id}
    if known and "data" in settings:
        _check_same_data(known, settings.pop("data"))
    elif not known and (data := _data_folder(TrainConfig(**settings))):
        # The run's own copy, so that what is uploaded meanwhile does not change a run that is resumed.
        (sync.local / "data").mkdir(parents=True)
        for name in DATA_FILES:
            if (data / name).exists():
                shutil.copyfile(data / name, sync.local / "data" / name)
        settings["data"] = str(sync.local / "data")
    rewards = rewards or (own_rewards(known) if known else None)
    config = TrainConfig(**settings)
    fetch_runs(config)
    _fetch_caches(config.cache_from)
    run = queue(config, load_rewards(rewards) if rewards else (), HERE, launch)
    download_model(run.config.model_name)  # last, since it takes longest
    volume(MODELS_VOLUME).commit()
    if rewards:
        write_bytes(run.path / REWARDS_FILE, rewards)
    (sync.remote / STOP_FILE).unlink(missing_ok=True)
    sync.push(is_last=True)
    return run.id, run.status["state"] == "complete"


@returns_errors
def train_run(run_id: str) -> None:
    """Trains a run that `open_run` made, from its last checkpoint. How it ended is in its status.json.

    Seconds and dollars count from when the container's process began; what Modal took to start it, and what comes after
    the last write of status.json, is not in them.
    """
    volume(RUNS_VOLUME).reload()
    remote = RunDirectory(run_id, RUNS)
    # A warm start's steps count below 0, so that they are not taken for GRPO's.
    steps = [-checkpoint_step(path) for path in remote.sft_checkpoints] + list(map(checkpoint_step, remote.checkpoints))
    lease = acquire_lease(run_id, _call_id(), step=steps[-1] if steps else 0)
    sync = _sync(lease)
    sync.pull()
    run = RunDirectory(sync.local)
    config = run.config
    fetch_runs(config)
    # The launcher writes this too, unless it was lost right after it made the call.
    write_bytes(sync.remote / WORKER_FILE, as_json({"call_id": _call_id()}))
    with sync:
        if lease.tries > config.retries + 1:
            what = f"{lease.tries - 1} containers in a row ended before they saved a checkpoint: they had "
            what += f"memory={config.memory} MiB and timeout={config.timeout} s for save_steps={config.save_steps}"
            RunWriter(run, config).end(RunError(what, "Give it more memory or a longer timeout, or save more often"))
            return
        try:
            work_on(run, print, since=datetime.fromtimestamp(psutil.Process().create_time(), UTC))
        except KeyboardInterrupt:
            mark_queued(run, "waiting for another container", reason=os.environ[WHY_INTERRUPTED])
            raise


@returns_errors
def evaluate_run(run_id: str, settings: dict[str, Any]) -> str:
    """Compares the run's checkpoints with its base model, and returns the name of the result's file in its eval/."""
    from grpo_kit.evaluation.evaluate import evaluate
    from grpo_kit.plots.evaluation import evaluation_figure

    volume(RUNS_VOLUME).reload()
    remote, local = RunDirectory(run_id, RUNS).path, HERE / run_id
    shutil.rmtree(local, ignore_errors=True)
    shutil.copytree(remote, local, ignore=shutil.ignore_patterns(".*"))
    run = RunDirectory(local)
    settings = _with_prompt_file(settings, local)
    if "data" in settings and (data := _data_folder(run.config.replace(data=settings["data"]))):
        settings["data"] = str(data)
    config = EvalConfig(**settings)
    fetch_runs(run.config)
    _fetch_caches(config.cache_from)
    caches = config.cache_from + ([str(local / "eval")] if (local / "eval" / CACHE_FILE).exists() else [])
    evaluation = evaluate(run, config, cache_from=caches, runs_dir=HERE, echo=print, draw=evaluation_figure)
    # Training may be writing the run's own cache, so what was judged here is kept beside the results.
    shutil.copyfile(local / CACHE_FILE, local / "eval" / CACHE_FILE)
    shutil.copytree(local / "eval", remote / "eval", dirs_exist_ok=True)
    volume(RUNS_VOLUME).commit()
    return evaluation.path.name


def _sync(lease: Lease) -> RunSync:
    return RunSync(HERE / lease.run_id, RUNS / lease.run_id, volume(RUNS_VOLUME), lease)


def _call_id() -> str:
    return modal.current_function_call_id() or ""


def _with_prompt_file(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings, with the judge's prompt, which came as its text, in a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not settings.get("judge_prompt"):
        return settings
    (folder / "judge_prompt.txt").write_text(settings["judge_prompt"])
    return settings | {"judge_prompt": str(folder / "judge_prompt.txt")}


def _data_folder(config: TrainConfig) -> Path | None:
    """Where the run's data is mounted; None for samples that are made where they are needed. Raises ConfigError where
    it is not there."""
    volume(DATA_VOLUME).reload()  # what was uploaded since this container's last call
    is_default = config.data == DEFAULT_DATA
    folder = DATA if is_default else DATA / config.data
    if (folder / "train.jsonl").exists():
        return folder
    if config.data == DEMO_CALLS or ":" in config.data or (is_default and config.model_name == "tiny"):
        return None  # for a first try
    there = sorted(str(file.parent.relative_to(DATA)) for file in DATA.rglob("train.jsonl"))
    name = "" if is_default else f", name={Path(config.data).name!r}"
    what = f"no train.jsonl for data={config.data!r} on the volume {DATA_VOLUME} (it has: {', '.join(there) or 'none'})"
    fix = f'Put it there with kit.upload_data.remote("data/processed"{name}), or from a shell with '
    raise ConfigError(what, f"{fix}modal run grpo_kit/app.py::upload_data")


def _check_same_data(run: RunDirectory, data: str) -> None:
    """Raises RunError where `data` on the volume is not what the run was started with."""
    folder = _data_folder(run.config.replace(data=data))
    if folder and fingerprint([folder / "train.jsonl"]) != run.about["data"]["fingerprint"]:
        what = f"run {run.id} was trained on other data than data={data!r} holds now"
        raise RunError(what, "Leave data out, since the run has its own copy, or use another run_id")


def _fetch_caches(names: list[str]) -> None:
    """Copies other runs' judgements to where training looks for them. Raises ConfigError for a run that has none."""
    for name in names:
        if not (RUNS / name / CACHE_FILE).exists():
            what = f"cache_from={name!r} is not a run with judgements on Modal's volume"
            raise ConfigError(what, "Name a run that is there, or leave cache_from out")
        (HERE / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(RUNS / name / CACHE_FILE, HERE / name / CACHE_FILE)


def fetch_runs(config: TrainConfig) -> None:
    """Copies the runs that training starts from to this container's disk, where their names on the volume hold."""
    for name in (config.adapter, config.model_name):
        run_id = (name or "").removeprefix(f"{HERE}/").partition("/")[0]
        if run_id and is_run(RUNS / run_id):
            shutil.rmtree(HERE / run_id, ignore_errors=True)  # as it was at an earlier call of this container
            leave = shutil.ignore_patterns(".*", "eval", "data", "merged", "completions.jsonl", CACHE_FILE)
            shutil.copytree(RUNS / run_id, HERE / run_id, ignore=leave)
