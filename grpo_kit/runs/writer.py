"""How a run's directory is written: opened, held by one process, kept as it goes, cut back to its last checkpoint.

Whatever a kill leaves behind can be resumed.
"""

import itertools
import json
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import BeingTrained, Problem, RunError, RunStopped
from grpo_kit.runs.alarms import Alarms, kind_of
from grpo_kit.runs.checkpoints import newest_whole
from grpo_kit.runs.directory import (
    LOG_FILE,
    SCHEMA,
    SCORES_FILE,
    SFT_METRICS,
    WORKER_FILE,
    Dollars,
    RunDirectory,
    begun,
    checkpoint_step,
    first_status,
    is_run,
    now,
)
from grpo_kit.runs.resume import check_unchanged, config_to_resume
from grpo_kit.runs.storage import LocalStorage
from grpo_kit.utils.environment import processes
from grpo_kit.utils.files import write_bytes, write_json
from grpo_kit.utils.json_lines import as_lines, read_lines

HEARTBEAT_SECONDS = 5
ROOM_FILE, ROOM = ".room", 2**16  # a file of so many bytes, in whose place the reason can be written on a full disk
WHY_INTERRUPTED = "GRPO_KIT_WHY_INTERRUPTED"  # set where an interrupt is not the user's
LOCK_SECONDS = 2  # whoever only queues a run holds it for a moment


def open_run(config: TrainConfig, about: dict, runs_dir: str | Path, quoted: dict | None = None) -> RunDirectory:
    """The run directory for `config`: the one of its run_id, to resume, or a new one.

    `about` is what config.json holds beside the settings, `quoted` what a new run was expected to take. Raises RunError
    where the run to resume had other rewards, weights, judges or data.
    """
    runs_dir = Path(runs_dir)
    run_id = stem = config.run_id or f"grpo_{datetime.now():%Y%m%d_%H%M%S}"
    runs_dir.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(2):
        with suppress(FileExistsError):
            (runs_dir / run_id).mkdir(exist_ok=bool(config.run_id))
            break
        run_id = f"{stem}_{attempt}"  # another run has this second's name
    run = RunDirectory.at(LocalStorage(runs_dir / run_id))
    with only_writer(run):
        if is_run(run.path):  # also where another process has just begun a run of this name
            config_to_resume(run, config)
            check_unchanged(run, about)
        elif run.checkpoints or {"metrics.jsonl", "status.json"} & set(run.storage.names()):
            what = f"{run.path} holds a run without its config.json"
            raise RunError(what, "Put it back, or use another run_id")
        else:
            write_json(run.path / "status.json", first_status(config.max_steps) | {"quoted": quoted})
            settings = config.model_dump() | {"run_id": run.id, "data": about["data"]["folder"]}
            write_json(run.path / "config.json", {"schema_version": SCHEMA, "settings": settings, **about})
    return run


def mark_queued(run: RunDirectory, phase: str, **changes: Any) -> None:
    """Records that the run waits for its first, or next, step, and what happens meanwhile."""
    queued = {"state": "queued", "reason": None, "heartbeat": now(), **begun(phase), **changes}
    write_json(run.path / "status.json", run.status | queued)


@contextmanager
def only_writer(run: RunDirectory) -> Iterator[None]:
    """Holds the run for one process; the system lets go of it when the process ends, however it ends.

    Raises BeingTrained where another process holds it, and RunError where a link in its folder leads elsewhere.
    """
    if links := [path.name for path in run.path.iterdir() if path.is_symlink()]:
        what = f"run {run.id} has links in its folder, and the run would write through them: {links[0]!r}"
        raise RunError(what, "Remove them")
    try:
        lock = FileLock(run.path / ".lock").acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise BeingTrained(run.id) from None
    with lock:
        yield


class RunWriter:
    """Writes a run's status, metrics and completions as it goes. Use it as a context: it keeps the heartbeat."""

    def __init__(
        self, run: RunDirectory, config: TrainConfig, usd_per_hour: float | None = 0, since: datetime | None = None
    ):
        """`usd_per_hour` is what the machine costs, None where that is not known, `since` when it began to; None: now.

        What earlier processes took is in status.json, up to their last heartbeat where they were killed.
        """
        self.run, self.config, self.usd_per_hour = run, config, usd_per_hour
        self.alarms = Alarms(run, config, self.log)
        self._before = run.status
        self.status = self._before | {"state": "running", "max_steps": config.max_steps, "reason": None}
        self.judged_usd: Callable[[], float | None] = lambda: 0.0  # of the judges; None where it is not known
        self.judged_elsewhere: float | None = 0.0  # dollars, by the processes beside this one
        self.peak_gib: Callable[[], float] = lambda: 0.0  # of memory
        past = (datetime.now(UTC) - since).total_seconds() if since else 0.0
        self._opened = time.monotonic() - max(0.0, past)  # a clock may be set anew meanwhile
        self.warnings: list[str] = []  # what was not as it should be when the run was resumed
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    @property
    def seconds(self) -> float:
        """Since this process, or the machine, began."""
        return time.monotonic() - self._opened

    def dollars(self) -> Dollars:
        """The cost of the run up to now. A part whose price is not known is 0."""
        machine = (self._before["usd_machine"] or 0.0) + (self.usd_per_hour or 0.0) * self.seconds / 3600
        return Dollars(machine, self._judge_usd() or 0.0)

    def _judge_usd(self) -> float | None:
        parts = self._before["usd_judge"], self.judged_usd(), self.judged_elsewhere
        return None if None in parts else sum(part or 0.0 for part in parts)

    def rewind(self) -> Path | None:
        """Cuts the files back to the newest whole checkpoint and returns it, or None where there is none yet. Newer,
        damaged ones are called damaged-checkpoint-N from then on. Raises RunError where all are damaged.
        """
        shutil.rmtree(self.run.path / ".partial", ignore_errors=True)
        checkpoint, damaged = newest_whole(self.run)
        if damaged and not checkpoint:
            told = ", ".join(f"{name} ({problem})" for name, problem in damaged.items())
            fix = f"Restore one, or start again with another run_id; cache_from={self.run.id} uses its judgements again"
            raise RunError(f"run {self.run.id} can't be resumed: all its checkpoints are damaged: {told}", fix)
        step = checkpoint_step(checkpoint) if checkpoint else 0
        if self._before["seconds"]:
            self.status["resumed"] = True
        warm, _ = newest_whole(self.run, self.run.sft_checkpoints)
        if (path := self.run.path / SFT_METRICS).exists():
            saved = checkpoint_step(warm) if warm else 0
            write_bytes(path, as_lines(row for row in read_lines(path) if row["step"] <= saved))
        for name, every in (("metrics.jsonl", 1), ("completions.jsonl", self.config.num_iterations), (SCORES_FILE, 0)):
            path = self.run.path / name
            kept = [row for row in read_lines(path) if row["step"] <= step and checkpoint]  # step 0's is made again
            if every and (lost := step // every - len({row["step"] for row in kept} - {0})):
                self.warnings.append(f"{name} has lost {lost} of the {step // every} steps that were saved")
            if every or path.exists():
                write_bytes(path, as_lines(kept))
        for name, problem in damaged.items():
            self.warnings.append(f"{name} is skipped and renamed damaged-{name}: {problem}")
            shutil.rmtree(self.run.path / f"damaged-{name}", ignore_errors=True)
            (self.run.path / name).rename(self.run.path / f"damaged-{name}")
        self.update(step=step)
        return checkpoint

    def update(self, **changes: Any) -> None:
        with self._changing:
            self.status |= changes
            spent, is_known, has_price = self.dollars(), self._judge_usd() is not None, self.usd_per_hour is not None
            self.status |= {
                "heartbeat": now(),
                "seconds": round(self._before["seconds"] + self.seconds, 1),
                "usd": round(spent.in_all, 8) if is_known and has_price else None,
                "usd_machine": round(spent.machine, 8) if has_price else None,
                "usd_judge": round(spent.judge, 8) if is_known else None,
            }
            peak = max((self._before["actual"] or {}).get("memory_gib") or 0.0, self.peak_gib())
            self.status["actual"] = {  # what was quoted of
                "minutes": round(self.status["seconds"] / 60, 3),
                **{name: self.status[name] for name in ("usd", "usd_machine", "usd_judge")},
                "memory_gib": round(peak, 2) or None,
            }
            write_json(self.run.path / "status.json", self.status)

    def begin(self, phase: str | None) -> None:
        """Records what the run does from now on while it makes no step; None: it makes steps."""
        self.update(**begun(phase))

    def append(self, name: str, rows: list[dict]) -> None:
        """Adds rows to metrics.jsonl, completions.jsonl or eval_scores.jsonl."""
        with (self.run.path / name).open("ab") as file:
            file.write(as_lines(rows))

    def log(self, text: str) -> None:
        with (self.run.path / LOG_FILE).open("a") as file:
            file.write(f"{now()} {text}\n")

    def show_sign(self, sign: Problem) -> None:
        """Tells a sign of trouble, the first of its kind in all the run."""
        kind, known = kind_of(sign), self.status.get("signs", [])
        if kind not in known:
            self.update(signs=[*known, kind])
            self.alarms.tell_sign(sign, self.status["step"])

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a full disk, which may have room again for the next
                self.update()

    def __enter__(self) -> "RunWriter":
        worker = json.loads(self.run.read_text(WORKER_FILE) or "{}")
        own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}  # one of several is below it
        if worker.get("pid", os.getpid()) not in own:  # of an earlier process, which run.kill() would look for
            (self.run.path / WORKER_FILE).unlink(missing_ok=True)
        (self.run.path / ROOM_FILE).write_bytes(bytes(ROOM))
        self._heart.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._closed.set()
        self._heart.join()
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """Records how the run ended, None: in good order; on a full disk too."""
        (self.run.path / ROOM_FILE).unlink(missing_ok=True)
        if error is None:
            self.update(state="complete")
        elif isinstance(error, KeyboardInterrupt):
            taken = os.environ.get(WHY_INTERRUPTED) or f"interrupted; run_id {self.run.id} resumes it"
            self.update(state="stopped", reason=taken)
        elif isinstance(error, RunStopped):
            self.update(state="stopped", reason=str(error))
        else:
            with suppress(OSError):  # the reason is worth more
                self.log("".join(traceback.format_exception(error)))
            self.update(state="failed", reason=f"{type(error).__name__}: {error}")
        with self.alarms.harmless():
            if isinstance(error, Exception):
                self.alarms.tell_failure(self.status)
            if processes() == 1:  # else their launcher tells it, since it may end this one at once
                self.alarms.tell_end(self.status)


class NullRunWriter(RunWriter):
    """Does nothing; used on ranks other than 0."""

    def rewind(self) -> Path | None:
        return newest_whole(self.run)[0]

    def update(self, **changes: Any) -> None:
        self.status |= changes

    def append(self, name: str, rows: list[dict]) -> None:
        pass

    def log(self, text: str) -> None:
        pass

    def __enter__(self) -> "NullRunWriter":
        return self

    def __exit__(self, *_) -> None:
        pass
