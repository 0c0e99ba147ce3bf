"""The work of Modal's containers: the kit's own functions, between bringing data and runs from the volumes and
committing what was made."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import modal
import psutil

from grpo_kit.backends.modal.client import MODELS_VOLUME, RUNS_VOLUME, volume
from grpo_kit.backends.modal.lease import Lease
from grpo_kit.backends.modal.volumes import HERE, RUNS, check_same_data, data_folder, fetch_caches, sync_of
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Launch
from grpo_kit.data.demo import DATA_FILES
from grpo_kit.errors import ConfigError, KitError, RunError
from grpo_kit.judges.cache import CACHE_FILE
from grpo_kit.rewards.travel import PYTHON, load_rewards
from grpo_kit.runs.directory import REWARDS_FILE, STOP_FILE, WORKER_FILE, RunDirectory, checkpoint_step
from grpo_kit.runs.writer import RunWriter
from grpo_kit.training.launch import work_on
from grpo_kit.utils.files import as_json, write_bytes, write_json

Answer = dict[str, Any]


def returns_errors(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Has `function` return errors that the user can mend, as {"error": a Problem's fields, "kind": class name}: Modal
    would retry a call that raises, which would fail again."""

    @wraps(function)
    def returning(*args: Any, **options: Any) -> Answer:
        try:
            return function(*args, **options)
        except KitError as error:
            return {"error": asdict(error.problem), "kind": type(error).__name__}

    return returning


@returns_errors
def open_run(settings: Answer, rewards: bytes | None, files: dict[str, str], python: str, launch: Answer) -> Answer:
    """Checks a run before a GPU is asked for, fetches its model, and makes its directory on the volume.

    `settings` are TrainConfig's that were given, `rewards` the reward functions cloudpickled by `python` ("3.11"),
    `files` the texts of settings that name a file, `launch` the fields of a Launch. Returns {"run_id", "complete"}.
    """
    from grpo_kit.training.plan import queue

    if rewards and python != PYTHON:
        raise ConfigError(
            f"the reward functions were pickled by Python {python} and the app on Modal has {PYTHON}, which can't read "
            f"them",
            f"kit.deploy() from this Python makes the app anew, or run the notebook with Python {PYTHON}",
        )
    run_id, new_name = settings.get("run_id"), f"grpo_{datetime.now():%Y%m%d_%H%M%S}"
    lease = Lease.acquire(run_id, _call_id(), step=0) if run_id else Lease.acquire_new(new_name, _call_id())
    sync = sync_of(lease.run_id, lease)
    known = sync.pull()
    settings = settings | _written(files, sync.local) | {"run_id": lease.run_id}
    if known and "data" in settings:
        check_same_data(known, settings.pop("data"))
    elif not known and (data := data_folder(TrainConfig(**settings))):
        # The run's own copy, so that what is uploaded meanwhile does not change a run that is resumed.
        (sync.local / "data").mkdir(parents=True)
        for name in DATA_FILES:
            if (data / name).exists():
                shutil.copyfile(data / name, sync.local / "data" / name)
        settings["data"] = str(sync.local / "data")
    if known and not rewards and (known.path / REWARDS_FILE).exists():
        rewards = (known.path / REWARDS_FILE).read_bytes()
    config = TrainConfig(**settings)
    fetch_caches(config.cache_from)
    run = queue(config, load_rewards(rewards) if rewards else (), HERE, Launch(**launch))
    _fetch_model(run.config.model_name)  # last, since it takes longest
    if rewards:
        write_bytes(run.path / REWARDS_FILE, rewards)
    (sync.remote / STOP_FILE).unlink(missing_ok=True)
    sync.push(is_last=True)
    return {"run_id": run.id, "complete": run.status["state"] == "complete"}


@returns_errors
def train_run(run_id: str) -> Answer:
    """Trains a run that `open_run` made, from its last checkpoint. How it ended is in its status.json.

    Seconds and dollars count from when the container's process began; what Modal took to start it, and what comes after
    the last write of status.json, is not in them.
    """
    volume(RUNS_VOLUME).reload()
    checkpoints = RunDirectory(run_id, RUNS).checkpoints
    lease = Lease.acquire(run_id, _call_id(), step=checkpoint_step(checkpoints[-1]) if checkpoints else 0)
    sync = sync_of(run_id, lease)
    sync.pull()
    run = RunDirectory(sync.local)
    # The launcher writes this too, unless it was lost right after it made the call.
    write_bytes(sync.remote / WORKER_FILE, as_json({"call_id": _call_id()}))
    with sync:
        config = run.config
        if lease.tries > config.retries + 1:
            error = RunError(
                f"{lease.tries - 1} containers in a row ended before they saved a checkpoint. Either they ran out of "
                f"memory={config.memory} MiB, or out of timeout={config.timeout} seconds before "
                f"save_steps={config.save_steps} steps were made",
                "Give more of what was short, or save more often",
            )
            RunWriter(run, config).fail(error)
            return {"state": "failed"}
        try:
            began = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
            work_on(run, print, since=began)
        except KeyboardInterrupt:
            reason = "its container was taken away; where Modal starts another, that resumes the run"
            write_json(run.path / "status.json", run.status | {"state": "queued", "reason": reason})
            raise
    return {"state": run.status["state"]}


@returns_errors
def evaluate_run(run_id: str, settings: Answer, files: dict[str, str]) -> Answer:
    """Compares the run's checkpoints with its base model; the result lies in the run's eval/. Returns {"name"}."""
    from grpo_kit.evaluation.evaluate import evaluate
    from grpo_kit.plots.evaluation import evaluation_figure

    volume(RUNS_VOLUME).reload()
    remote, local = RunDirectory(run_id, RUNS).path, HERE / run_id
    shutil.rmtree(local, ignore_errors=True)
    shutil.copytree(remote, local, ignore=shutil.ignore_patterns(".*"))
    run = RunDirectory(local)
    settings = settings | _written(files, local)
    if "data" in settings and (data := data_folder(run.config.replace(data=settings["data"]))):
        settings["data"] = str(data)
    config = EvalConfig(**settings)
    fetch_caches(config.cache_from)
    earlier = [str(local / "eval")] if (local / "eval" / CACHE_FILE).exists() else []
    evaluation = evaluate(
        run, config, cache_from=[*config.cache_from, *earlier], runs_dir=HERE, echo=print, draw=evaluation_figure
    )
    # Training may be writing the run's own cache, so what was judged here is kept beside the results.
    shutil.copyfile(local / CACHE_FILE, local / "eval" / CACHE_FILE)
    shutil.copytree(local / "eval", remote / "eval", dirs_exist_ok=True)
    volume(RUNS_VOLUME).commit()
    return {"name": evaluation.path.name}


@returns_errors
def download_model(model_name: str) -> Answer:
    """Fetches a model from the hub to the volume, so that no GPU is paid to wait for it. Returns {"path"}."""
    return {"path": str(_fetch_model(model_name))}


@returns_errors
def examine(settings: Answer) -> Answer:
    """For `grpo-kit doctor`. `settings` are TrainConfig's that were given.

    Returns {"versions": by package, "model" and "judge": why it can't be had from here, or None}.
    """
    from grpo_kit.preflight.doctor import judge_problem, model_problem
    from grpo_kit.utils.environment import versions

    config = TrainConfig(**settings)
    return {"versions": versions(), "model": model_problem(config.model_name), "judge": judge_problem(config)}


def _fetch_model(name: str) -> Path:
    from grpo_kit.models.load import download_model

    path = download_model(name)
    volume(MODELS_VOLUME).commit()
    return path


def _call_id() -> str:
    """The id of the call that this container works on."""
    return modal.current_function_call_id() or ""


def _written(files: dict[str, str], folder: Path) -> dict[str, str]:
    """Settings that name a file, whose texts came along and are written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return {name: str(folder / f"{name}.txt") for name in files}
