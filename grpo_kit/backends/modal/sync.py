"""A run on a Modal container's own disk, kept alike on the volume, which only one container at a time may write.

Training writes many small things and holds an SQLite database open; a volume wants whole files and commits. So the run
lies on the container's disk and a thread copies what is new: first what is said about steps, then the checkpoints, so
that whatever moment a commit catches can be gone on from.
"""

import _thread
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import modal
from tenacity import Retrying, retry_if_not_exception_type, stop_after_attempt, wait_fixed

from grpo_kit.backends.modal.lease import Claim
from grpo_kit.errors import RunError
from grpo_kit.judges.cache import CACHE_FILE
from grpo_kit.runs.directory import STOP_FILE, WORKER_FILE, RunDirectory, checkpoint_step, is_run
from grpo_kit.utils.files import write_bytes

PUSH_SECONDS = 2.0
CACHE_SECONDS = 20.0  # the cache is copied whole, so less often
NOT_PUSHED = (STOP_FILE, WORKER_FILE, "eval")  # others write these on the volume
GROWING = (".jsonl", ".log")


class Mirror:
    """Keeps the copy on the volume like the run on disk: as a context by itself, and once more at its end."""

    def __init__(self, local: Path, remote: Path, volume: modal.Volume, claim: Claim):
        """`remote` is the run's folder below where `volume` is mounted."""
        self.local, self.remote, self._volume, self._claim = local, remote, volume, claim
        self._pushed: dict[str, tuple[int, int, int]] = {}  # each file's stamp when it was last copied
        self._known: set[str] = set()  # checkpoints that were here at any time
        self._cache_pushed = -CACHE_SECONDS
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def pull(self) -> RunDirectory | None:
        """The run as the volume has it, brought here with its newest checkpoint; None where it has none."""
        if not is_run(self.remote):
            return None
        # All checkpoints, where older ones are to be removed as new ones come.
        keeps_all = RunDirectory(self.remote).config.save_total_limit is None
        older = [path.name for path in RunDirectory(self.remote).checkpoints[: -1 if keeps_all else 0]]
        left_out = shutil.ignore_patterns(".*", "eval", *older)
        shutil.copytree(self.remote, self.local, ignore=left_out, dirs_exist_ok=True)
        return RunDirectory(self.local)

    def push(self) -> None:
        """Copies what is new and commits. Raises RunError where another container has taken the run over."""
        if not self._claim.holds:
            raise RunError(f"run {self._claim.run_id} was taken over by another container, so this one ends")
        status = self.local / "status.json"  # written with every step and every heartbeat
        if self._stamp(status) == self._pushed.get(status.name) and not self._closed.is_set():
            return
        self.remote.mkdir(parents=True, exist_ok=True)
        checkpoints = {path.name for path in RunDirectory(self.local).checkpoints}
        there = {path.name for path in self.remote.glob("checkpoint-*")}
        files = {path.name: path for path in self.local.iterdir() if path.is_file() and not path.name.startswith(".")}
        for name, path in files.items():
            if name not in (*NOT_PUSHED, status.name) and not name.startswith(CACHE_FILE):
                self._copy(path)
        if checkpoints - there:
            self._volume.commit()  # so that no commit has a checkpoint without the steps before it
        for name in sorted(checkpoints - there):
            partial = self.remote / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.local / name, partial)
            partial.rename(self.remote / name)
        for name in (self._known - checkpoints) & there:
            shutil.rmtree(self.remote / name)
        self._known |= checkpoints
        is_due = checkpoints - there or self._closed.is_set() or time.monotonic() - self._cache_pushed > CACHE_SECONDS
        if CACHE_FILE in files and is_due:
            self._copy_cache(files[CACHE_FILE])
        self._copy(status)  # last: who reads that the run has ended finds all of it
        self._volume.commit()

    def see_whether_to_stop(self) -> None:
        """Brings the request to stop from the volume here."""
        self._volume.reload()
        if (self.remote / STOP_FILE).exists():
            (self.local / STOP_FILE).touch()

    def _copy(self, source: Path) -> None:
        """Replaces the file's copy; of one that only grows, adds what is new."""
        now, before = self._stamp(source), self._pushed.get(source.name)
        if now == before:
            return
        target = self.remote / source.name
        has_grown = before is not None and before[2] == now[2] and before[0] <= now[0]
        if has_grown and source.suffix in GROWING and target.stat().st_size == before[0]:
            with source.open("rb") as new, target.open("ab") as file:
                new.seek(before[0])
                file.write(new.read(now[0] - before[0]))
        else:
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(source, partial)
            os.replace(partial, target)
            now = (target.stat().st_size, *now[1:])  # it may have grown while it was copied
        self._pushed[source.name] = now

    @staticmethod
    def _stamp(file: Path) -> tuple[int, int, int]:
        """Size, time of change, and which file it is: one that was replaced is not one that grew."""
        stat = file.stat()
        return stat.st_size, stat.st_mtime_ns, stat.st_ino

    def _copy_cache(self, source: Path) -> None:
        """With SQLite's own backup, since the database is being written to."""
        partial = self.local / f".{CACHE_FILE}.backup"
        with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(partial)) as copy:
            database.backup(copy)
        write_bytes(self.remote / CACHE_FILE, partial.read_bytes())
        self._cache_pushed = time.monotonic()

    def _keep(self) -> None:
        while not self._closed.wait(PUSH_SECONDS):
            try:
                self.push()
                self.see_whether_to_stop()
            except RunError as error:  # taken over
                print(error)
                _thread.interrupt_main()
                return
            except Exception as error:  # whatever it is, the next try may do, and training goes on
                print(f"The volume could not be written ({type(error).__name__}: {error}); trying again")

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._thread.join()
        for attempt in Retrying(
            retry=retry_if_not_exception_type(RunError),
            stop=stop_after_attempt(5),
            wait=wait_fixed(2),
            reraise=True,
        ):
            with attempt:
                self.push()
        self._claim.release()


def last_step(folder: Path) -> int:
    """The step of a run's newest checkpoint; 0 where it has none."""
    return max((checkpoint_step(path) for path in folder.glob("checkpoint-*")), default=0)
