"""A run is a directory, here or on a Modal volume: its files, how they are read, and what can be asked of a run."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from grpo_kit.backends import chosen_backend
from grpo_kit.config import TrainConfig
from grpo_kit.errors import OutOfReach as OutOfReach
from grpo_kit.errors import RunError
from grpo_kit.errors import RunStopped as RunStopped
from grpo_kit.json_lines import parse_columns
from grpo_kit.places import Folder, Place, write_bytes

if TYPE_CHECKING:
    import pandas

    from grpo_kit.pickling import Rewards

RUNS_DIR = Path("runs")
LOST_AFTER_SECONDS = 60  # a running run whose heartbeat is older was killed
LOG_FILE = "train.log"
OUTPUT_FILE = "worker.out"  # what a run's process on this machine printed; the last word of one that broke down
REWARDS_FILE = "rewards.pkl"  # the reward functions that were given to the run, cloudpickled
STOP_FILE = "stop"  # its presence asks the run to end at its next step
WORKER_FILE = "worker.json"  # what trains the run: a process here, or a call on Modal
UNFINISHED = ("queued", "running")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` in one move: a reader sees the old file or the new one, never half of either."""
    write_bytes(path, as_json(content))


def as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


class Run:
    """A handle on a run directory. It reads and writes only files, so any process may hold one."""

    def __init__(self, run_id: str | Path, runs_dir: str | Path = RUNS_DIR):
        """`run_id` is a name under `runs_dir` or on Modal's volume, or the path of a run directory.

        What is here comes first. RunError if there is no such run.
        """
        inside = Path(runs_dir) / run_id
        path = inside if is_run(inside) else Path(run_id)
        if is_run(path):
            self.place: Place = Folder(path)
            self.id = path.resolve().name
            return
        known = sorted(path.name for path in Path(runs_dir).glob("*") if is_run(path))
        places = str(runs_dir)
        if chosen_backend() == "modal":
            from grpo_kit.volumes import VolumeFolder, runs_on_volume

            on_volume = runs_on_volume()
            if str(run_id) in on_volume:
                self.place, self.id = VolumeFolder(str(run_id)), str(run_id)
                return
            known, places = sorted(known + on_volume), f"{runs_dir} or on Modal's volume"
        there = f"There are: {', '.join(known[-5:])}." if known else "There are no runs there yet."
        raise RunError(f"no run {run_id} under {places}. {there}")

    @classmethod
    def at(cls, place: Place, run_id: str) -> "Run":
        """The run whose files are known to be there."""
        run = cls.__new__(cls)
        run.place, run.id = place, run_id
        return run

    def __repr__(self) -> str:
        status = self.status
        where = "" if self.place.backend == "local" else ", on Modal"
        return f"Run({self.id}: {status['state']}, step {status['step']}/{status['max_steps']}{where})"

    @property
    def path(self) -> Path:
        """The run's folder on this machine. RunError where it is on Modal's volume."""
        if isinstance(self.place, Folder):
            return self.place.root
        raise RunError(f"run {self.id} is on Modal: {self.place}. run.download('local_models/{self.id}') fetches it")

    @property
    def about(self) -> dict:
        """config.json whole: settings, package versions, fingerprint of the data, git commit."""
        return self._read_json("config.json")

    @property
    def config(self) -> TrainConfig:
        return TrainConfig(**self.about["settings"])

    @property
    def status(self) -> dict:
        """status.json: state, step, reward, dollars, reason.

        States: queued, running, complete, stopped, killed, failed, or lost (ended without a word).
        """
        return self.status_after(LOST_AFTER_SECONDS)

    def status_after(self, patience: float) -> dict:
        """The status, where a run that was silent for `patience` seconds, and whose worker has ended, is lost."""
        status = self._read_json("status.json")
        silent = datetime.now(UTC) - datetime.fromisoformat(status["heartbeat"])
        if status["state"] not in UNFINISHED or silent.total_seconds() <= patience:
            return status
        try:
            fate = self.place.fate(self.worker)
        except RunError:  # a process that waits for it trains it, or nothing does
            fate = "no sign of what trains it" if silent.total_seconds() > LOST_AFTER_SECONDS else None
        latest = self._read_json("status.json")  # it may have ended in good order meanwhile
        if fate is None or latest["state"] not in UNFINISHED:
            return latest
        reason = f"{fate}, the last heartbeat was at {status['heartbeat']}; its run_id resumes it"
        return latest | {"state": "lost", "reason": reason}

    @property
    def checkpoints(self) -> list[Path | PurePosixPath]:
        """Complete checkpoints, oldest first."""
        found = [self.place.root / name for name in self.place.names() if re.fullmatch(r"checkpoint-\d+", name)]
        return sorted(found, key=checkpoint_step)

    def metrics(self) -> "pandas.DataFrame":
        """A row per step, TRL's names as columns."""
        return self._table("metrics.jsonl")

    def completions(self) -> "pandas.DataFrame":
        """A row per completion: step, sample, prompt, completion, scores by reward, advantage, reason.

        The rows of a group share their prompt, one list of messages.
        """
        return self._table("completions.jsonl", CompletionRow)

    def logs(self, lines: int = 50) -> None:
        """Prints the last lines of what the run has said, tracebacks included."""
        said = self.read_text(LOG_FILE) or self.read_text(OUTPUT_FILE)
        print("\n".join(said.splitlines()[-lines:]) or f"run {self.id} has said nothing yet")

    def watch(self) -> "Run":
        """Waits for the run's end with a progress bar, and in a notebook a live plot. Interrupting it is harmless.

        Raises RunError, with the traceback in words, where the run fails.
        """
        from grpo_kit.watching import watch

        return watch(self)

    def stop(self) -> None:
        """Ends the run at its next step, with a checkpoint. One that still waits for its machine makes no step."""
        state = self.status_after(0)["state"]
        if state not in UNFINISHED:
            raise RunError(f"run {self.id} is {state} already: there is nothing to stop")
        self.place.write(STOP_FILE, b"")
        print(f"Run {self.id} stops at its next step; run.resume() goes on with it")

    def kill(self) -> None:
        """Ends the run at once. What it did since its last checkpoint is done again when it is resumed."""
        state = self.status_after(0)["state"]
        if state not in (*UNFINISHED, "lost"):
            raise RunError(f"run {self.id} is {state} already: there is nothing to kill")
        if state != "lost":
            self.place.end(self.worker)
        status = self._read_json("status.json")
        if status["state"] not in UNFINISHED:
            print(f"Run {self.id} had just ended: it is {status['state']}")
            return
        status |= {"state": "killed", "heartbeat": now(), "reason": "killed; run.resume() goes on with it"}
        self.place.write("status.json", as_json(status))
        print(f"Run {self.id} is killed; run.resume() goes on from its last checkpoint")

    def resume(self, rewards: "Rewards" = (), **settings) -> "Run":
        """Goes on with the run where its files are, from its last checkpoint, and returns at once.

        `rewards` are needed where the run was trained by a process that waited for it; others keep their own.
        `settings` may change what changes no score, such as `gpu` and `timeout`.
        """
        from grpo_kit.remote import resume

        return resume(self, rewards, settings)

    def download(self, to: str | Path) -> "Run":
        """Copies the run's folder to the new folder `to` and returns the run there."""
        to = Path(to)
        if to.exists():
            raise RunError(f"{to} is there already: name a new folder to download run {self.id} to")
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self.place.download(partial)
        for name in (WORKER_FILE, STOP_FILE):  # nothing trains the copy
            (partial / name).unlink(missing_ok=True)
        partial.rename(to)
        return Run(to)

    @property
    def worker(self) -> dict:
        """What trains it: {"pid", "created"} here or {"call_id"} on Modal. RunError where that is not known."""
        try:
            return json.loads(self.place.read(WORKER_FILE))
        except FileNotFoundError:
            raise RunError(
                f"run {self.id} is trained by a process that waits for it: interrupt it there (Ctrl-C, or the "
                f"notebook's stop button)"
            ) from None

    def read_text(self, name: str) -> str:
        """A file of the run's; empty where there is none."""
        try:
            return self.place.read(name).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _table(self, name: str, row: type[msgspec.Struct] | None = None) -> "pandas.DataFrame":
        import pandas

        try:
            return pandas.DataFrame(parse_columns(self.place.read(name), self.place.root / name, row))
        except FileNotFoundError:
            return pandas.DataFrame()

    def _read_json(self, name: str) -> dict:
        try:
            return json.loads(self.place.read(name))
        except (OSError, ValueError) as error:
            path = self.place.root / name
            raise RunError(f"{path} can't be read ({error}): put it back, or remove the run's folder") from None


class CompletionRow(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A row of completions.jsonl as trainer.py writes it. A group's completions have their prompt in common."""

    step: int
    sample_id: str
    prompt: msgspec.Raw
    completion: str
    rewards: dict[str, float | None]
    advantage: float | None
    reason: str


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run's. The folder of a whole model has a config.json too, without settings."""
    try:
        return "settings" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def checkpoint_step(path: Path | PurePosixPath) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def runs(runs_dir: str | Path = RUNS_DIR) -> "pandas.DataFrame":
    """A table of all runs under `runs_dir` and on Modal's volume, newest last: state, step, last reward, minutes
    and dollars with what was quoted, settings."""
    import pandas

    found = [Run(folder) for folder in filter(is_run, Path(runs_dir).glob("*"))]
    if chosen_backend() == "modal":
        from grpo_kit.volumes import VolumeFolder, runs_on_volume

        try:
            found += [Run.at(VolumeFolder(name), name) for name in runs_on_volume()]
        except RunError as error:
            print(f"Only the runs here: {error}")
    with ThreadPoolExecutor(8) as pool:  # each run on the volume takes some requests
        rows = [row for row in pool.map(_row, found) if row]
    columns = """
        run where state step reward minutes quoted_minutes usd quoted_usd model_name learning_rate num_generations
        seed started
    """.split()
    return pandas.DataFrame(rows, columns=columns).sort_values("started", ignore_index=True)


def _row(run: Run) -> dict | None:
    try:
        status, settings = run.status, run.about["settings"]
    except RunError as error:
        print(f"Left out: {error}")
        return None
    if not isinstance(settings, dict) or "model_name" not in settings:
        print(f"Left out: {run.place}: its config.json holds no settings")
        return None
    quoted = status.get("quoted") or {}
    return {
        "run": run.id,
        "where": "here" if run.place.backend == "local" else "modal",
        "state": status["state"],
        "step": f"{status['step']}/{status['max_steps']}",
        "reward": status.get("reward"),
        "minutes": status["seconds"] / 60,
        "quoted_minutes": quoted.get("minutes"),
        "usd": status["usd"],
        "quoted_usd": quoted.get("usd"),
        **{name: settings[name] for name in ("model_name", "learning_rate", "num_generations", "seed")},
        "started": status["started"],
    }
