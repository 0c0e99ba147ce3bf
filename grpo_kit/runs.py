"""A run is a directory: its layout, how it is written so that a kill leaves nothing half done, and how it is read."""

import itertools
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from grpo_kit.config import CHANGES_NO_SCORE, TrainConfig

if TYPE_CHECKING:
    import pandas

RUNS_DIR = Path("runs")
HEARTBEAT_SECONDS = 5
LOST_AFTER_SECONDS = 60  # a running run whose heartbeat is older was killed


class RunError(RuntimeError):
    """A run that is not there, or cannot be gone on with. The message says why and what to do."""


class RunStopped(RunError):
    """A run that was ended before its time, on purpose and with its last step saved. The message says why."""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` in one move: a reader sees the old file or the new one, never half of either."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def read_lines(path: Path) -> list[dict]:
    """The rows of a JSONL file. A last line that is still being written, or that a kill cut short, is left out."""
    rows = []
    if path.exists():
        for number, line in enumerate(lines := path.read_bytes().split(b"\n"), 1):
            try:
                rows += [orjson.loads(line)] if line else []
            except orjson.JSONDecodeError as error:
                if number < len(lines):
                    raise RunError(f"{path}:{number} is no JSON ({error}): mend or remove that line") from None
    return rows


class Run:
    """A handle on a run directory. It reads and writes only files, so any process may hold one."""

    def __init__(self, run_id: str | Path, runs_dir: str | Path = RUNS_DIR):
        """`run_id` is a name under `runs_dir`, or the path of a run directory. RunError if there is none."""
        inside = Path(runs_dir) / run_id
        self.path = inside if is_run(inside) else Path(run_id)
        if not is_run(self.path):
            known = sorted(path.name for path in Path(runs_dir).glob("*") if is_run(path))
            there = f"There are: {', '.join(known[-5:])}." if known else "There are no runs there yet."
            raise RunError(f"no run {run_id} under {runs_dir}. {there}")
        self.id = self.path.resolve().name

    def __repr__(self) -> str:
        status = self.status
        return f"Run({self.id}: {status['state']}, step {status['step']}/{status['max_steps']})"

    @property
    def about(self) -> dict:
        """config.json whole: settings, package versions, fingerprint of the data, git commit."""
        return _read_json(self.path / "config.json")

    @property
    def config(self) -> TrainConfig:
        return TrainConfig(**self.about["settings"])

    @property
    def status(self) -> dict:
        """status.json: state (running, complete, stopped, failed, or lost: killed without a word), step, reason."""
        status = _read_json(self.path / "status.json")
        silent = datetime.now(UTC) - datetime.fromisoformat(status["heartbeat"])
        if status["state"] == "running" and silent.total_seconds() > LOST_AFTER_SECONDS:
            status |= {
                "state": "lost",
                "reason": f"no heartbeat since {status['heartbeat']}; its run_id resumes it",
            }
        return status

    @property
    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = [path for path in self.path.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
        return sorted(found, key=checkpoint_step)

    def metrics(self) -> "pandas.DataFrame":
        """A row per step, TRL's names as columns."""
        import pandas

        return pandas.DataFrame(read_lines(self.path / "metrics.jsonl"))

    def completions(self) -> "pandas.DataFrame":
        """A row per completion: step, sample, prompt, completion, scores by reward, advantage, reason."""
        import pandas

        return pandas.DataFrame(read_lines(self.path / "completions.jsonl"))


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run's. The folder of a whole model has a config.json too, without settings."""
    try:
        return "settings" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def is_complete(run_id: str | None, runs_dir: str | Path = RUNS_DIR) -> bool:
    """Whether there is such a run and it has nothing left to do."""
    return bool(run_id) and is_run(Path(runs_dir) / run_id) and Run(run_id, runs_dir).status["state"] == "complete"


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read ({error}): put it back, or remove the run's folder") from None


def checkpoint_step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def runs(runs_dir: str | Path = RUNS_DIR) -> "pandas.DataFrame":
    """A table of all runs under `runs_dir`, newest last: state, step, last reward, seconds, and some settings."""
    import pandas

    rows = []
    for folder in filter(is_run, Path(runs_dir).glob("*")):
        run = Run(folder)
        status, metrics, settings = run.status, read_lines(run.path / "metrics.jsonl"), run.about["settings"]
        rows.append(
            {
                "run": run.id,
                "state": status["state"],
                "step": f"{status['step']}/{status['max_steps']}",
                "reward": metrics[-1].get("reward") if metrics else None,
                "seconds": status["seconds"],
                "model_name": settings["model_name"],
                "learning_rate": settings["learning_rate"],
                "num_generations": settings["num_generations"],
                "seed": settings["seed"],
                "started": status["started"],
            }
        )
    columns = "run state step reward seconds model_name learning_rate num_generations seed started".split()
    return pandas.DataFrame(rows, columns=columns).sort_values("started", ignore_index=True)


def with_the_runs_own_settings(config: TrainConfig, runs_dir: str | Path = RUNS_DIR) -> TrainConfig:
    """`config`, or where its run_id is there already, the settings of that run, but for those that change no score.

    Raises RunError where another setting that was asked for is not the run's own.
    """
    if not config.run_id or not is_run(Path(runs_dir) / config.run_id):
        return config
    own = Run(config.run_id, runs_dir).config
    given = config.given
    if "data" in given:
        given["data"] = str(Path(given["data"]).resolve())
    differing = [
        f"{name}={value!r} (it has {getattr(own, name)!r})"
        for name, value in given.items()
        if value != getattr(own, name) and name not in CHANGES_NO_SCORE
    ]
    if differing:
        raise RunError(
            f"run {config.run_id} was started with other settings: {', '.join(differing)}. "
            f"Leave them out to resume it, or give the new run another run_id."
        )
    return own.replace(**{name: value for name, value in given.items() if name in CHANGES_NO_SCORE})


def open_run(config: TrainConfig, about: dict, runs_dir: str | Path = RUNS_DIR) -> Run:
    """The run directory for `config`: the one of its run_id, to go on with, or a new one.

    `about` is what config.json holds beside the settings. Raises RunError where the run to go on with had other
    rewards, weights or judges, or data with another fingerprint.
    """
    runs_dir = Path(runs_dir)
    if config.run_id and is_run(runs_dir / config.run_id):
        run = Run(config.run_id, runs_dir)
        if run.about["rewards"] != about["rewards"]:
            raise RunError(
                f"run {run.id} was started with the rewards {', '.join(run.about['rewards'])}, and not with "
                f"{', '.join(about['rewards'])}. Pass the same ones (rewards=[…]), or use another run_id."
            )
        if run.about.get("reward_weights", about["reward_weights"]) != about["reward_weights"]:
            raise RunError(
                f"run {run.id} was started with the reward weights {run.about['reward_weights']}, and not with "
                f"{about['reward_weights']}. Give the same ones, or use another run_id."
            )
        if about["judges"] and run.about.get("judges", about["judges"]) != about["judges"]:
            raise RunError(
                f"run {run.id} was judged by another version of its judge: the prompt's text or the kit has changed "
                f"since. Put it back, or use another run_id."
            )
        before, after = run.about["data"], about["data"]
        if before["fingerprint"] != after["fingerprint"]:
            raise RunError(
                f"run {run.id} was trained on other data than {after['folder']} holds now (fingerprint "
                f"{before['fingerprint']}, now {after['fingerprint']}). Put that data back, or use another run_id."
            )
        return run
    run_id = stem = config.run_id or f"grpo_{datetime.now():%Y%m%d_%H%M%S}"
    runs_dir.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(2):
        try:
            (runs_dir / run_id).mkdir()
            break
        except FileExistsError:
            if config.run_id:
                break  # a run that was killed before its first file
            run_id = f"{stem}_{attempt}"  # another run has this second's name
    path = runs_dir / run_id
    write_json(path / "status.json", new_status(config))
    # An absolute folder, so that the run can be gone on with from anywhere.
    settings = config.model_dump() | {"run_id": run_id, "data": about["data"]["folder"]}
    write_json(path / "config.json", {"settings": settings, **about})
    return Run(path)


def new_status(config: TrainConfig) -> dict:
    return {
        "state": "running",
        "step": 0,
        "max_steps": config.max_steps,
        "started": now(),
        "heartbeat": now(),
        "seconds": 0.0,
        "usd": 0.0,
        "reason": None,
    }


@contextmanager
def only_writer(run: Run):
    """Holds the run for one process. The system lets go of it when the process ends, however it ends."""
    import fcntl

    with (run.path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"run {run.id} is being trained by another process; watch it, or stop that one") from None
        yield


class RunWriter:
    """Writes a run's status, metrics and completions as it goes. Use it as a context: it keeps the heartbeat."""

    def __init__(self, run: Run, config: TrainConfig):
        self.run = run
        self.status = {**new_status(config), "usd": run.status["usd"], "started": run.status["started"]}
        self._seconds_before, self._usd_before = run.status["seconds"], run.status["usd"]
        self.spent: Callable[[], float | None] = lambda: 0.0  # dollars since then; None where it is not known
        self._opened = datetime.now(UTC)
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def rewind(self) -> Path | None:
        """Brings the files back to the last complete checkpoint and returns it, or None where there is none yet."""
        shutil.rmtree(self.run.path / ".partial", ignore_errors=True)
        checkpoint = self.run.checkpoints[-1] if self.run.checkpoints else None
        step = checkpoint_step(checkpoint) if checkpoint else 0
        for name in ("metrics.jsonl", "completions.jsonl"):
            path = self.run.path / name
            rows = [
                orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in read_lines(path) if row["step"] <= step
            ]
            partial = path.with_name(f".{name}.partial")
            partial.write_bytes(b"".join(rows))
            os.replace(partial, path)
        self.update(step=step)
        return checkpoint

    def update(self, **changes: Any) -> None:
        with self._changing:
            self.status |= changes
            seconds = (datetime.now(UTC) - self._opened).total_seconds()
            self.status |= {"heartbeat": now(), "seconds": round(self._seconds_before + seconds, 1)}
            spent = self.spent()
            known = spent is not None and self._usd_before is not None
            self.status["usd"] = round(self._usd_before + spent, 8) if known else None
            write_json(self.run.path / "status.json", self.status)

    def append(self, name: str, rows: list[dict]) -> None:
        """Adds rows to metrics.jsonl or completions.jsonl. orjson writes what was not measured, NaN, as null."""
        with (self.run.path / name).open("ab") as file:
            file.write(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            self.update()

    def __enter__(self) -> "RunWriter":
        self._heart.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._closed.set()
        self._heart.join()
        if kind is None:
            self.update(state="complete")
        elif issubclass(kind, KeyboardInterrupt):
            self.update(state="stopped", reason=f"interrupted; run_id {self.run.id} resumes it")
        elif issubclass(kind, RunStopped):
            self.update(state="stopped", reason=str(error))
        else:
            self.update(state="failed", reason=f"{kind.__name__}: {error}")
