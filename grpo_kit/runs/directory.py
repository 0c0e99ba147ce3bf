"""A run is a directory, here or on a Modal volume: its files and how they are read."""

import json
import math
import os
import re
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import RunError
from grpo_kit.runs.storage import LocalStorage, Storage
from grpo_kit.utils.garbage import without_collector
from grpo_kit.utils.json_lines import Row, parse_lines
from grpo_kit.utils.text import dollars, duration, printable, say_once

if TYPE_CHECKING:
    import pandas

RUNS_DIR = Path("runs")
LOST_AFTER_SECONDS = 60  # a running run whose heartbeat is older was killed
LOG_FILE = "train.log"
SCORES_FILE = "eval_scores.jsonl"  # the held-out answers of each evaluation while training
OUTPUT_FILE = "worker.out"  # what a run's process on this machine printed; the last word of one that broke down
REWARDS_FILE = "rewards.pkl"  # the reward functions that were given to the run, cloudpickled
DIFFICULTY_FILE = "difficulty.jsonl"  # the start model's answers to each prompt, with their scores
STOP_FILE = "stop"  # its presence asks the run to end at its next step
WORKER_FILE = "worker.json"  # what trains the run: a process here, or a call on Modal
UNFINISHED = ("queued", "running")
START = "start"  # the folder of the adapter that a run goes on from
SFT_METRICS = "sft_metrics.jsonl"  # of the warm start's steps, as metrics.jsonl of GRPO's
SCHEMA = 1  # config.json's; a larger one is of a kit whose run folders this one can't read
# By a file that is missing or odd, and not by Modal, which is out of reach.
UNREADABLE = (OSError, ValueError, TypeError, RecursionError)
_NUMBERS = [(name, float | None) for name in ("reward", "usd", "usd_judge")]
_WORDS = [("state", str), ("started", str), ("heartbeat", datetime), ("reason", str | None), ("actual", dict | None)]
_STATUS = msgspec.defstruct("_STATUS", [*_WORDS, ("step", int), ("max_steps", int), ("seconds", float), *_NUMBERS])


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Dollars(NamedTuple):
    """US dollars by what they are for."""

    machine: float  # GPU, cores and memory
    judge: float

    @property
    def in_all(self) -> float:
        return self.machine + self.judge

    def __str__(self) -> str:
        return " and ".join(f"{dollars(part)} for the {name}" for name, part in self._asdict().items() if part) or "$0"


def spent_on(status: dict[str, Any]) -> Dollars:
    """The cost of a run so far, as its status has it."""
    return Dollars(status.get("usd_machine") or 0.0, status.get("usd_judge") or 0.0)


def first_status(max_steps: int) -> dict[str, Any]:
    """What status.json says of a run that waits for its first step."""
    status: dict[str, Any] = {"state": "queued", "step": 0, "max_steps": max_steps}
    status |= dict.fromkeys(("started", "heartbeat"), now())
    status |= dict.fromkeys(("seconds", "usd", "usd_machine", "usd_judge"), 0.0)  # dollars in all, and their parts
    status["resumed"] = False  # whether it was made in more than one go
    return status | dict.fromkeys(("reward", "reason", "quoted", "actual"))


def begun(phase: str | None) -> dict[str, Any]:
    """What status.json has of a phase that begins now: what a run does while it makes no step."""
    return {"phase": phase and {"name": phase, "since": now()}}


def phase_of(status: dict[str, Any]) -> str:
    """ "loading the model"; empty while steps are made, and once the run is over."""
    return (status.get("phase") or {}).get("name", "") if status["state"] in UNFINISHED else ""


def timed_phase_of(status: dict[str, Any]) -> str:
    """ "loading the model, 12 s": with the seconds so far."""
    if not (phase := phase_of(status)):
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(status["phase"]["since"])).total_seconds()
    return f"{phase}, {duration(max(0.0, seconds))}"


def warm_start_of(status: dict[str, Any]) -> str:
    """ "warm start 5/20" while a run is in its supervised stage."""
    made, steps = status.get("sft_step", 0), status.get("sft_steps", 0)
    return f"warm start {made}/{steps}" if made < steps and not status["step"] else ""


def place_of(status: dict[str, Any]) -> str:
    """ "step 3", or before the first one "warm start 5/20" or "step 0, with 12 of 24 prompts measured"."""
    measured = status.get("difficulty") or {}
    far = ", with {measured:,} of {prompts:,} prompts measured".format(**measured) if "measured" in measured else ""
    return warm_start_of(status) or f"step {status['step']}{far}"


class _CompletionRow(msgspec.Struct, gc=False):
    step: int
    sample_id: str
    prompt: msgspec.Raw  # which a group's completions have in common, so it is read once
    completion: str
    rewards: dict[str, float | None]
    advantage: float | None
    reason: str
    messages: list[dict[str, Any]] | None = None  # of a dialogue


class _RewardRow(msgspec.Struct, gc=False):
    reward: float | None = None


class RunDirectory:
    """A run's files, read afresh at each call, so any process may hold one. Writing them is RunWriter's."""

    def __init__(self, run_id: str | Path, runs_dir: str | Path = RUNS_DIR):
        """`run_id` is a name under `runs_dir` or the path of a run directory. Raises RunError where there is none."""
        inside = Path(runs_dir) / run_id
        path = inside if is_run(inside) else Path(run_id)
        if not is_run(path):
            raise no_such_run(run_id, runs_dir)
        self.storage: Storage = LocalStorage(path)
        self.id = path.resolve().name

    @classmethod
    def at(cls, storage: Storage) -> Self:
        """The run whose files are known to exist in `storage`."""
        run = cls.__new__(cls)
        run.storage, run.id = storage, storage.root.name
        return run

    def __repr__(self) -> str:
        status = self.status
        where = "" if self.storage.backend == "local" else ", on Modal"
        best = f", best {status['best_checkpoint']}" if status.get("best_checkpoint") else ""
        return f"Run({self.id}: {status['state']}, step {status['step']}/{status['max_steps']}{best}{where})"

    @property
    def path(self) -> Path:
        """The run's folder on this machine. RunError where it is on Modal's volume."""
        if isinstance(self.storage, LocalStorage):
            return self.storage.root
        raise RunError(f"run {self.id} is on Modal: {self.storage}", "run.download(folder) copies it here")

    @property
    def about(self) -> dict:
        """config.json whole: settings, package versions, fingerprint of the data, git commit."""
        about = self._read_json("config.json", "settings")
        if (version := about.get("schema_version", 0)) > SCHEMA:
            what = f"run {self.id} was made by a newer version of the kit (schema {version}; this has {SCHEMA})"
            raise RunError(what, "Install that version to read it")
        return about

    @property
    def config(self) -> TrainConfig:
        settings = TrainConfig.present_names(self.about["settings"])
        if settings.get("environment") == "user":
            settings.setdefault("judge_replies", "last")  # as it was before there was such a setting
        if unknown := settings.keys() - TrainConfig.model_fields.keys():
            names = ", ".join(sorted(unknown))
            say_once(f"Run {self.id}: settings that this version of the kit does not know are ignored: {names}")
        return TrainConfig(**{name: value for name, value in settings.items() if name not in unknown})

    @property
    def status(self) -> dict:
        """status.json: step, reward, dollars, reason and state: queued, running, complete, stopped, killed, failed, or
        lost (ended without a word)."""
        return self.status_after(LOST_AFTER_SECONDS)

    def status_after(self, patience: float) -> dict:
        """The status, where a run that was silent for `patience` seconds, and whose worker has ended, is lost."""
        status = self._read_status()
        beat = datetime.fromisoformat(status["heartbeat"])
        silent = (datetime.now(UTC) - (beat if beat.tzinfo else beat.replace(tzinfo=UTC))).total_seconds()
        if silent < -LOST_AFTER_SECONDS:  # a heartbeat from the future tells nothing
            silent = math.inf
        if status["state"] not in UNFINISHED or silent <= patience:
            return status
        try:
            fate = self.storage.exit_reason(self.worker)
        except RunError:  # a process that waits for it trains it, or nothing does
            fate = "no sign of what trains it" if silent > LOST_AFTER_SECONDS else None
        latest = self._read_status()  # it may have ended in good order meanwhile
        if fate is None or latest["state"] not in UNFINISHED:
            return latest
        reason = f"{fate}, the last heartbeat was at {status['heartbeat']}; its run_id resumes it"
        return latest | {"state": "lost", "reason": reason}

    def _read_status(self) -> dict:
        """status.json. One that can't be read is made up from what the run's other files tell."""
        try:
            found = self._parsed("status.json", "usd_machine")
            msgspec.convert(found, _STATUS)
            return found
        except UNREADABLE as error:
            problem = error
        rows, config = self._rows("metrics.jsonl", dict), self.config  # without which there is no run to tell of
        say_once(f"{self.storage.root}/status.json can't be read ({problem}): rebuilt from the run's other files")
        times = re.findall(r"^\d{4}-\d\d-\d\dT\S+(?= )", self.read_text(LOG_FILE), re.MULTILINE) or [now()]
        step, seconds = max([row["step"] for row in rows], default=0), sum(row.get("step_time", 0.0) for row in rows)
        is_complete = step == config.max_steps and any(name.endswith(".safetensors") for name in self.storage.names())
        spent = Dollars(
            (self.about.get("usd_per_hour") or 0.0) * seconds / 3600,
            sum(row[name] or 0.0 for row in rows for name in row if re.fullmatch("judge/.*/usd", name)),
        )
        reward = next((row["reward"] for row in reversed(rows) if row.get("reward") is not None), None)
        known = {"step": step, "reward": reward, "fsdp": config.fsdp is True, "seconds": round(seconds, 1)}
        known |= {"started": times[0], "heartbeat": times[-1], "usd": spent.in_all}
        known |= {f"usd_{name}": part for name, part in spent._asdict().items()}
        state = "complete" if is_complete else "running"  # or lost, if nothing trains it
        return first_status(config.max_steps) | known | {"state": state}

    @property
    def checkpoints(self) -> list[Path | PurePosixPath]:
        """Complete checkpoints, oldest first."""
        return self._folders(r"checkpoint-\d+")

    @property
    def sft_checkpoints(self) -> list[Path | PurePosixPath]:
        """Those of the warm start: mostly one, that of its newest saved step."""
        return self._folders(r"checkpoint-sft-\d+")

    def _folders(self, pattern: str) -> list[Path | PurePosixPath]:
        found = [self.storage.root / name for name in self.storage.names() if re.fullmatch(pattern, name)]
        return sorted(found, key=checkpoint_step)

    def metrics(self) -> "pandas.DataFrame":
        """A row per step, TRL's names as columns; with eval_steps a row 0 too, which has only held-out scores."""
        import pandas

        return pandas.DataFrame(self._rows("metrics.jsonl", dict))

    def recent_reward(self) -> tuple[float | None, float | None]:
        """The mean reward of the last steps, where the learning curve's running mean ends, and its standard deviation
        from step to step; None where there are no steps, or too few."""
        steps = [row.reward for row in self._rows("metrics.jsonl", _RewardRow) if row.reward is not None]
        last = steps[-recent_steps(len(steps)) :]
        return mean(last) if last else None, stdev(last) if len(last) > 1 else None

    def headline(self) -> str:
        """ "reward 0.74 ± 0.09", as tables of runs have it; empty where there are no steps."""
        reward, spread = self.recent_reward()
        return "" if reward is None else f"reward {reward:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")

    def held_out(self) -> "pandas.DataFrame":
        """A row per held-out answer of each evaluation while training (eval_steps): step, sample_id, completion, score
        as it is trained for, and the second judge's."""
        import pandas

        columns = ["step", "sample_id", "completion", "score", "second"]
        return pandas.DataFrame(self._rows(SCORES_FILE, dict), columns=columns)

    def completions(self) -> "pandas.DataFrame":
        """A row per completion: step, sample, prompt (one list of messages for a group), completion, scores by reward,
        advantage, reason; the messages where it is a dialogue."""
        import pandas

        decode = lru_cache(maxsize=None)(msgspec.json.decode)
        with without_collector():
            rows = self._rows("completions.jsonl", _CompletionRow)
            columns = {name: [getattr(row, name) for row in rows] for name in _CompletionRow.__struct_fields__}
            columns["prompt"] = [decode(bytes(prompt)) for prompt in columns["prompt"]]
            if not any(columns["messages"]):
                del columns["messages"]
            return pandas.DataFrame(columns)

    def logs(self, lines: int = 50) -> None:
        """Prints the last lines of what the run has said, tracebacks included."""
        said = self.read_text(LOG_FILE) or self.read_text(OUTPUT_FILE)
        print(printable("\n".join(said.splitlines()[-lines:])) or f"run {self.id} has printed nothing yet")

    @property
    def worker(self) -> dict:
        """The trainer's {"pid", "created"} here, or {"call_id"} on Modal. RunError where that is not known."""
        try:
            return json.loads(self.storage.read(WORKER_FILE))
        except FileNotFoundError:
            fix = "Interrupt it there (Ctrl-C, or the notebook's stop button)"
            raise RunError(f"run {self.id} trains in a process that waits for it", fix) from None

    def read_text(self, name: str) -> str:
        """A file of the run's; empty where there is none."""
        try:
            return self.storage.read(name).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _rows(self, name: str, kind: type[Row]) -> list[Row]:
        try:
            return parse_lines(self.storage.read(name), self.storage.root / name, kind)
        except FileNotFoundError:
            return []

    def _read_json(self, name: str, *needed: str) -> dict:
        try:
            return self._parsed(name, *needed)
        except UNREADABLE as error:
            path = self.storage.root / name
            raise RunError(f"{path} can't be read ({error})", "Put it back, or remove the run's folder") from None

    def _parsed(self, name: str, *needed: str) -> dict:
        found = json.loads(self.storage.read(name))
        if missing := [key for key in needed if key not in found]:
            raise ValueError(f"it has no {missing[0]}")
        return found


def recent_steps(steps: int) -> int:
    """How many of the last steps a run's reward is the mean of: a tenth, and three at least."""
    return max(3, steps // 10)


def find_run(run_id: str | None, runs_dir: str | Path) -> RunDirectory | None:
    """The run of that name under `runs_dir`; None where there is none."""
    return RunDirectory(run_id, runs_dir) if run_id and is_run(Path(runs_dir) / run_id) else None


def no_such_run(run_id: str | Path, runs_dir: str | Path, on_volume: list[str] | None = None) -> RunError:
    """`on_volume` are the runs on Modal's volume, where they were looked at too."""
    where = f"{runs_dir}" if on_volume is None else f"{runs_dir} or on Modal's volume"
    for folder in (Path(runs_dir, run_id), Path(run_id)):
        if os.path.exists(folder / "status.json"):  # also of a name that is too long for a file
            return RunError(f"{folder}/config.json is missing, or can't be read", f"Put it back, or remove {folder}")
    known = sorted([path.name for path in Path(runs_dir).glob("*") if is_run(path)] + (on_volume or []))
    fix = f"There are: {', '.join(known[-5:])}." if known else "There are no runs there yet."
    return RunError(f"no run {run_id} under {where}", fix)


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run's. The folder of a whole model has a config.json too, without settings."""
    try:
        return isinstance(json.loads(LocalStorage(folder).read("config.json"))["settings"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def checkpoint_step(path: Path | PurePosixPath) -> int:
    return int(path.name.rpartition("-")[2])
