"""What Modal's containers do around the kit's own functions: data and runs are brought from the volumes, results back.

Whatever the user can mend is returned as words and not raised, so that Modal does not try again what would fail again.
"""

import math
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import modal
import psutil

from grpo_kit.backends.modal.client import DATA_VOLUME
from grpo_kit.backends.modal.lease import Claim
from grpo_kit.backends.modal.sync import Mirror, last_step
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Launch
from grpo_kit.data.demo import DATA_FILES, DEFAULT_DATA
from grpo_kit.data.samples import BadTrace, fingerprint
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.cache import CACHE_FILE, RewardCache
from grpo_kit.rewards.travel import load_rewards
from grpo_kit.runs.directory import REWARDS_FILE, STOP_FILE, UNFINISHED, WORKER_FILE, RunDirectory, is_run
from grpo_kit.runs.writer import RunWriter
from grpo_kit.training.worker import work_on
from grpo_kit.utils.files import as_json, write_bytes, write_json

HERE = Path("/tmp/grpo_kit/runs")  # the container's own disk
LET_GO_SECONDS = 60


@dataclass(frozen=True)
class Volumes:
    """The volumes, and where they are mounted."""

    data: Path
    checkpoints: Path
    models: Path
    mounted: dict[str, modal.Volume]  # by path

    def refresh(self) -> None:
        """Shows the data and runs that others have committed: the container may have served an earlier call."""
        for path in (self.data, self.checkpoints):
            self.mounted[str(path)].reload()

    @property
    def runs(self) -> Path:
        return self.checkpoints / "runs"

    def bring(self, run_id: str, claim: Claim) -> tuple[Mirror, RunDirectory | None]:
        """The run as it was last committed, on this container's disk; None where there is none yet."""
        self.refresh()
        shutil.rmtree(HERE / run_id, ignore_errors=True)
        mirror = Mirror(HERE / run_id, self.runs / run_id, self.mounted[str(self.checkpoints)], claim)
        return mirror, mirror.pull()


def in_words(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `function` returns; for an error that the user can mend, {"error": its message, "kind": its class}."""
    try:
        return function()
    except (ConfigError, RunError, BadTrace) as error:
        return {"error": str(error), "kind": type(error).__name__}


def open_run(
    volumes: Volumes, settings: dict, rewards: bytes | None, files: dict[str, str], python: str, launch: dict
) -> dict:
    """Checks a run before a GPU is asked for, fetches its model, and makes its directory on the volume.

    `settings` are TrainConfig's that were given, `rewards` the reward functions cloudpickled by `python` ("3.11"),
    `files` the texts of settings that name a file, `launch` what Launch.as_sent gave. Returns {"run_id", "complete"}.
    """
    from grpo_kit.training.plan import queue

    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if rewards and python != here:
        raise ConfigError(
            f"the reward functions were pickled by Python {python} and the app on Modal has {here}, which can't read "
            f"them. kit.deploy() from this Python makes the app anew, or run the notebook with Python {here}"
        )
    functions = load_rewards(rewards) if rewards else ()
    run_id, claim = _claimed(volumes, settings.get("run_id"))
    try:
        mirror, known = volumes.bring(run_id, claim)
        settings = _from_files(settings, files, mirror.local) | {"run_id": run_id}
        if known:
            _refuse_other_data(settings, known, volumes)
            settings.pop("data", None)
        elif data := _data_on_volume(TrainConfig(**settings), volumes):
            # The run's own copy, so that what is uploaded meanwhile does not change a run that is resumed.
            for name in DATA_FILES:
                if (data / name).exists():
                    (mirror.local / "data").mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(data / name, mirror.local / "data" / name)
            settings["data"] = str(mirror.local / "data")
        config = TrainConfig(**settings)
        if known and not rewards and (known.path / REWARDS_FILE).exists():
            rewards = (known.path / REWARDS_FILE).read_bytes()
            functions = load_rewards(rewards)
        caches = _bring_caches(config.cache_from, volumes)
        run = queue(config, functions, HERE, Launch(**launch))
        download(volumes, run.config.model_name)  # last, since it takes longest
        if rewards:
            write_bytes(run.path / REWARDS_FILE, rewards)
        with closing(RewardCache(run.path / CACHE_FILE)) as cache:
            for path in caches:
                cache.copy_from(path)
        (mirror.remote / STOP_FILE).unlink(missing_ok=True)
        if not known and (run.path / "data").exists():
            shutil.copytree(run.path / "data", mirror.remote / "data", dirs_exist_ok=True)
        mirror.push()
        return {"run_id": run_id, "complete": run.status["state"] == "complete"}
    finally:
        claim.release()


def train(volumes: Volumes, run_id: str) -> dict:
    """Trains a run that `open_run` made, from its last checkpoint. How it ended is in its status.json.

    Seconds and dollars count from when the container's process began; what Modal took to start it, and what ends after
    the last word in status.json, is not in them.
    """
    volumes.refresh()
    call_id = modal.current_function_call_id()
    claim = Claim(run_id, call_id, step=last_step(volumes.runs / run_id))
    mirror, run = volumes.bring(run_id, claim)
    # Whoever made the call writes this too, unless it was lost right after.
    write_bytes(mirror.remote / WORKER_FILE, as_json({"call_id": call_id}))
    with mirror:
        if claim.tries > run.config.retries + 1:
            error = RunError(
                f"{claim.tries - 1} containers in a row ended before they saved a checkpoint. Either they ran out of "
                f"memory={run.config.memory} MiB, or out of timeout={run.config.timeout} seconds before "
                f"save_steps={run.config.save_steps} steps were made. Give more of what was short, or save more often"
            )
            RunWriter(run, run.config).fail(error)
        else:
            try:
                about, began = run.about, datetime.fromtimestamp(psutil.Process().create_time(), UTC)
                launch = Launch(about["machine"], about["usd_per_hour"], run.status["quoted"], since=began)
                # open_run brought the judgements of cache_from into the run's own cache
                work_on(run, print, cache_from=[], launch=launch)
            except KeyboardInterrupt:
                reason = "its container was taken away; where Modal starts another, that goes on"
                write_json(run.path / "status.json", run.status | {"state": "queued", "reason": reason})
                raise
    return {"state": run.status["state"]}


def evaluate(volumes: Volumes, run_id: str, settings: dict, files: dict[str, str]) -> dict:
    """Compares the run's checkpoints with its base model; the result lies in the run's eval/. Returns {"name"}."""
    from grpo_kit.evaluation.evaluate import evaluate
    from grpo_kit.plots.evaluation import evaluation_figure

    volumes.refresh()
    remote, local = volumes.runs / run_id, HERE / run_id
    if not is_run(remote):
        raise RunError(f"no run {run_id} on the volume")
    shutil.rmtree(local, ignore_errors=True)
    shutil.copytree(remote, local, ignore=shutil.ignore_patterns(".*"))
    run = RunDirectory(local)
    settings = _from_files(settings, files, local)
    if data := _data_on_volume(run.config.replace(data=settings["data"]), volumes) if "data" in settings else None:
        settings["data"] = str(data)
    config = EvalConfig(**settings)
    _bring_caches(config.cache_from, volumes)
    earlier = [str(local / "eval")] if (local / "eval" / CACHE_FILE).exists() else []
    evaluation = evaluate(
        run, config, cache_from=[*config.cache_from, *earlier], runs_dir=HERE, echo=print, draw=evaluation_figure
    )
    # Training may be writing the run's own cache, so what was judged here is kept beside the results.
    shutil.copyfile(local / CACHE_FILE, local / "eval" / CACHE_FILE)
    shutil.copytree(local / "eval", remote / "eval", dirs_exist_ok=True)
    volumes.mounted[str(volumes.checkpoints)].commit()
    return {"name": evaluation.path.name}


def _claimed(volumes: Volumes, run_id: str | None) -> tuple[str, Claim]:
    """The run id that was asked for, or a new one named for the time, and the right to write it."""
    call_id = modal.current_function_call_id()
    if run_id:
        volumes.refresh()
        known = volumes.runs / run_id
        # Its last container says that the run has ended just before it lets go of it.
        has_ended = is_run(known) and RunDirectory(known).status_after(math.inf)["state"] not in UNFINISHED
        return run_id, Claim(run_id, call_id, patience=LET_GO_SECONDS if has_ended else 0)
    stem, attempt = f"grpo_{datetime.now():%Y%m%d_%H%M%S}", 1
    while True:
        name = stem if attempt == 1 else f"{stem}_{attempt}"  # another run may have this second's name
        try:
            claim = Claim(name, call_id)
            if claim.is_first and not (volumes.runs / name).exists():
                return name, claim
            claim.release()
        except RunError:
            pass
        attempt += 1


def _data_on_volume(config: TrainConfig, volumes: Volumes) -> Path | None:
    """Where `data` is in this container; None for the kit's own samples. Raises ConfigError where it is not there."""
    folder = volumes.data / ("" if config.data == DEFAULT_DATA else config.data)
    if (folder / "train.jsonl").exists():
        return folder
    if config.data == DEFAULT_DATA and config.model_name == "tiny":
        return None  # for a first try
    there = sorted(str(file.parent.relative_to(volumes.data)) for file in volumes.data.rglob("train.jsonl"))
    name = "" if config.data == DEFAULT_DATA else f", name={Path(config.data).name!r}"
    raise ConfigError(
        f"no train.jsonl for data={config.data!r} on the volume {DATA_VOLUME} (it has: {', '.join(there) or 'none'}). "
        f'Put it there with kit.upload_data.remote("data/processed"{name}), or from a shell with '
        f"modal run grpo_kit/app.py::upload_data"
    )


def _refuse_other_data(settings: dict, known: RunDirectory, volumes: Volumes) -> None:
    """Raises RunError where a run that is gone on with is given other data than it has."""
    if "data" in settings and (data := _data_on_volume(known.config.replace(data=settings["data"]), volumes)):
        given, own = fingerprint([data / "train.jsonl"]), known.about["data"]["fingerprint"]
        if given != own:
            raise RunError(
                f"run {known.id} was trained on other data than data={settings['data']!r} holds now (fingerprint "
                f"{own}, now {given}). Leave data out, since the run has its own copy, or use another run_id"
            )


def _bring_caches(names: list[str], volumes: Volumes) -> list[Path]:
    """Copies other runs' judgements to where training looks for them. Raises ConfigError for a run that has none."""
    brought = []
    for name in names:
        if not (volumes.runs / name / CACHE_FILE).exists():
            raise ConfigError(f"cache_from={name!r}: on Modal it should name a run on the volume that has judgements")
        (HERE / name).mkdir(parents=True, exist_ok=True)
        brought.append(Path(shutil.copyfile(volumes.runs / name / CACHE_FILE, HERE / name / CACHE_FILE)))
    return brought


def _from_files(settings: dict, files: dict[str, str], folder: Path) -> dict:
    """Settings that name a file, with the file as it came along."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return settings | {name: str(folder / f"{name}.txt") for name in files}


def download(volumes: Volumes, model_name: str) -> dict:
    """Fetches a model from the hub to the volume. Returns {"path"}."""
    from grpo_kit.models.load import download_model

    path = download_model(model_name)
    volumes.mounted[str(volumes.models)].commit()
    return {"path": str(path)}


def examine(settings: dict) -> dict:
    """What `grpo-kit doctor` asks here. `settings` are TrainConfig's that were given.

    Returns {"versions": by package, "model" and "judge": why it can't be had from here, or None}.
    """
    from grpo_kit.preflight.doctor import judge_problem, model_problem
    from grpo_kit.utils.environment import versions

    config = TrainConfig(**settings)
    return {"versions": versions(), "model": model_problem(config.model_name), "judge": judge_problem(config)}
