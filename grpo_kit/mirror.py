"""A run on a Modal container's own disk, kept alike on the volume, which only one container at a time may write.

Training writes many small things and holds an SQLite database open; a volume wants whole files and commits. So the run
lies on the container's disk and a thread copies what is new: first what is said about steps, then the checkpoints, so
that whatever moment a commit catches can be gone on from.
"""

import _thread
import itertools
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import modal
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from grpo_kit.cache import CACHE_FILE
from grpo_kit.runs import STOP_FILE, WORKER_FILE, Run, RunError, checkpoint_step, is_run
from grpo_kit.volumes import fate_of_call

PUSH_SECONDS = 1.0
CACHE_SECONDS = 20.0  # the cache is copied whole, so less often
NOT_PUSHED = (STOP_FILE, WORKER_FILE, "eval")  # others write these on the volume
GROWING = (".jsonl", ".log")


class Claim:
    """The right to write a run. The newest claim on a run holds; whoever has an older one finds out and stops.

    Claims are numbered entries of a modal.Dict, which lets only one of several put the next number.
    """

    def __init__(self, claims: modal.Dict, run_id: str, call_id: str, remote: Path):
        """Raises RunError where another call that still works holds the run. A call's own new container may go on.

        `remote` is the run's folder on the volume.
        """
        self._claims, self.run_id = claims, run_id
        mine = {"call_id": call_id, "step": _last_step(remote), "released": False}
        while True:
            earlier = self._earlier()
            last = earlier[-1] if earlier else None
            if last and not last["released"] and last["call_id"] != call_id and fate_of_call(last["call_id"]) is None:
                raise RunError(
                    f"run {run_id} is being trained by another call on Modal: watch it (kit.Run('{run_id}').watch()) "
                    f"or stop that one"
                )
            self._number, self._mine = len(earlier), mine
            if claims.put(self._key(self._number), mine, skip_if_exists=True):
                break
        # Containers of this call in a row, this one included, that started from the same checkpoint.
        self.tries = 1 + sum(1 for _ in itertools.takewhile(mine.__eq__, reversed(earlier)))

    @property
    def is_first(self) -> bool:
        return self._number == 0

    @property
    def holds(self) -> bool:
        return not self._claims.contains(self._key(self._number + 1))

    def release(self) -> None:
        self._claims.put(self._key(self._number), self._mine | {"released": True})

    def _earlier(self) -> list[dict]:
        """All claims that were made, oldest first."""
        numbers = itertools.count()
        return list(iter(lambda: self._claims.get(self._key(next(numbers))), None))

    def _key(self, number: int) -> str:
        return f"{self.run_id}/{number}"


class Mirror:
    """Keeps the copy on the volume like the run on disk: as a context by itself, and once more at its end."""

    def __init__(self, local: Path, remote: Path, volume: modal.Volume, claim: Claim):
        """`remote` is the run's folder below where `volume` is mounted."""
        self.local, self.remote, self._volume, self._claim = local, remote, volume, claim
        self._pushed: dict[str, tuple[int, int]] = {}  # size and mtime_ns of each file when it was last copied
        self._cache_pushed = -CACHE_SECONDS
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def pull(self) -> Run | None:
        """The run as the volume has it, brought here; None where it has none."""
        if not is_run(self.remote):
            return None
        shutil.copytree(self.remote, self.local, ignore=shutil.ignore_patterns(".*", "eval"), dirs_exist_ok=True)
        return Run(self.local)

    def push(self) -> None:
        """Copies what is new and commits. Raises RunError where another container has taken the run over."""
        if not self._claim.holds:
            raise RunError(f"run {self._claim.run_id} was taken over by another container, so this one ends")
        if self._stamp(status := self.local / "status.json") == self._pushed.get(status.name):
            return  # it is written with every step and every heartbeat
        self.remote.mkdir(parents=True, exist_ok=True)
        checkpoints = {path.name for path in Run(self.local).checkpoints}
        there = {path.name for path in self.remote.glob("checkpoint-*")}
        files = {path.name: path for path in self.local.iterdir() if path.is_file() and not path.name.startswith(".")}
        del files[status.name]
        cache = files.pop(CACHE_FILE, None)
        for name, path in files.items():
            if name not in NOT_PUSHED and not name.startswith(CACHE_FILE):
                self._copy(path)
        is_due = checkpoints - there or self._closed.is_set() or time.monotonic() - self._cache_pushed > CACHE_SECONDS
        if cache and is_due:
            self._copy_cache(cache)
        if checkpoints - there:
            self._volume.commit()  # so that no commit has a checkpoint without the steps before it
        for name in sorted(checkpoints - there):
            partial = self.remote / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.local / name, partial)
            partial.rename(self.remote / name)
        for name in there - checkpoints:
            shutil.rmtree(self.remote / name)
        self._copy(status)
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
        if before and source.suffix in GROWING and target.stat().st_size == before[0] <= now[0]:
            with source.open("rb") as new, target.open("ab") as file:
                new.seek(before[0])
                file.write(new.read(now[0] - before[0]))
        else:
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(source, partial)
            os.replace(partial, target)
            now = (target.stat().st_size, now[1])  # it may have grown while it was copied
        self._pushed[source.name] = now

    @staticmethod
    def _stamp(file: Path) -> tuple[int, int]:
        return file.stat().st_size, file.stat().st_mtime_ns

    def _copy_cache(self, source: Path) -> None:
        """With SQLite's own backup, since the database is being written to."""
        partial = self.local / f".{CACHE_FILE}.backup"
        with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(partial)) as copy:
            database.backup(copy)
        target = self.remote / f".{CACHE_FILE}.partial"
        shutil.copyfile(partial, target)
        os.replace(target, self.remote / CACHE_FILE)
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
            except (OSError, RuntimeError, modal.exception.Error) as error:
                print(f"The volume could not be written ({error}); trying again")

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._thread.join()
        for attempt in Retrying(
            retry=retry_if_exception_type((OSError, modal.exception.Error)),
            stop=stop_after_attempt(5),
            wait=wait_fixed(2),
            reraise=True,
        ):
            with attempt:
                self.push()
        self._claim.release()


def _last_step(folder: Path) -> int:
    """The step of a run's newest checkpoint; 0 where it has none."""
    return max((checkpoint_step(path) for path in folder.glob("checkpoint-*")), default=0)
