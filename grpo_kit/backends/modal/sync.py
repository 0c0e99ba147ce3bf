"""A run on a Modal container's own disk, copied to the volume as it goes on by the one container that may write it.

Training writes many small files and holds an SQLite database open; a volume wants whole files and commits. Files
about steps are committed before their checkpoint, so a run can be resumed from whatever a commit holds.
"""

import _thread
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import modal
from tenacity import Retrying, retry_if_not_exception_type, stop_after_attempt, wait_fixed

from grpo_kit.backends.modal.lease import Lease
from grpo_kit.errors import RunError
from grpo_kit.judges.cache import CACHE_FILE
from grpo_kit.runs.checkpoints import newest_whole
from grpo_kit.runs.directory import START, STOP_FILE, WORKER_FILE, RunDirectory, is_run
from grpo_kit.utils.files import replacing

PUSH_SECONDS = 2.0
CACHE_SECONDS = 20.0  # the judgements' cache is copied whole, so less often
STATUS_FILE = "status.json"  # written with every step and every heartbeat
PUSHED_APART = (STATUS_FILE, STOP_FILE, WORKER_FILE)  # the status last; the others are written on the volume


class RunSync:
    """Copies a run between `local`, its folder on this container's disk, and `remote`, its folder on the volume.
    As a context it pushes by itself every PUSH_SECONDS, and once more at its end."""

    def __init__(self, local: Path, remote: Path, volume: modal.Volume, lease: Lease):
        self.local, self.remote, self._volume, self._lease = local, remote, volume, lease
        self._pushed: dict[str, tuple[int, int]] = {}  # size and time of change of each file when it was last pushed
        self._cache_pushed = -CACHE_SECONDS
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._push_until_closed, daemon=True)

    def pull(self) -> RunDirectory | None:
        """Copies the run from the volume, with its newest whole checkpoint alone; None where it has none yet."""
        shutil.rmtree(self.local, ignore_errors=True)
        self._volume.reload()
        if not is_run(self.remote):
            return None
        run = RunDirectory(self.remote)
        whole, _ = newest_whole(run)
        others = [path.name for path in run.checkpoints if whole and path.name != whole.name]
        shutil.copytree(self.remote, self.local, ignore=shutil.ignore_patterns(".*", "eval", *others))
        return RunDirectory(self.local)

    def push(self, is_last: bool = False) -> None:
        """Copies what is new and commits it. Raises RunError where another container has taken the run over."""
        if not self._lease.is_held:
            what = f"another container has taken over run {self._lease.run_id}, so this one ends"
            raise RunError(what, "There is nothing to do: the other one goes on")
        stamp = _stamp(self.local / STATUS_FILE)
        if not is_last and stamp == self._pushed.get(STATUS_FILE):
            return
        self.remote.mkdir(parents=True, exist_ok=True)
        with replacing(self.remote / STATUS_FILE) as status:
            # As it is now; it takes its place after the rest, so that all that it tells of is there.
            shutil.copyfile(self.local / STATUS_FILE, status)
            self._push_files_and_folders(is_last)
        self._pushed[STATUS_FILE] = stamp
        self._volume.commit()

    def _push_files_and_folders(self, is_last: bool) -> None:
        run = RunDirectory(self.local)
        # Listed before the files, which then have their steps.
        folders = [*(path.name for path in [*run.sft_checkpoints, *run.checkpoints]), "data", START]
        new = [name for name in folders if (self.local / name).is_dir() and not (self.remote / name).exists()]
        for path in self.local.iterdir():
            if path.is_file() and path.name not in PUSHED_APART and not path.name.startswith((".", CACHE_FILE)):
                self._push_file(path.name)
        if new:
            self._volume.commit()
        for name in new:
            partial = self.remote / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.local / name, partial)
            partial.rename(self.remote / name)
        for old in RunDirectory(self.remote).sft_checkpoints[:-1] if new else ():
            shutil.rmtree(old)
        if new and (limit := run.config.save_total_limit):
            for old in RunDirectory(self.remote).checkpoints[:-limit]:
                shutil.rmtree(old)
        if new or is_last or time.monotonic() - self._cache_pushed > CACHE_SECONDS:
            self._push_cache()

    def pull_stop_request(self) -> None:
        self._volume.reload()
        if (self.remote / STOP_FILE).exists():
            (self.local / STOP_FILE).touch()

    def _push_file(self, name: str) -> None:
        stamp = _stamp(self.local / name)  # before it is copied, since it may grow meanwhile
        if stamp != self._pushed.get(name):
            with replacing(self.remote / name) as partial:
                shutil.copyfile(self.local / name, partial)
            self._pushed[name] = stamp

    def _push_cache(self) -> None:
        """With SQLite's own backup, since the database is being written to."""
        if (self.local / CACHE_FILE).exists():
            backup = self.local / f".{CACHE_FILE}"
            with closing(sqlite3.connect(self.local / CACHE_FILE)) as cache, closing(sqlite3.connect(backup)) as copy:
                cache.backup(copy)
            with replacing(self.remote / CACHE_FILE) as partial:
                shutil.copyfile(backup, partial)
        self._cache_pushed = time.monotonic()

    def _push_until_closed(self) -> None:
        while not self._closed.wait(PUSH_SECONDS):
            try:
                self.push()
                self.pull_stop_request()
            except RunError as error:  # taken over
                print(error)
                _thread.interrupt_main()
                return
            except Exception as error:  # a network that fails, a checkpoint that is replaced: the next push may succeed
                print(f"The volume could not be written to ({type(error).__name__}: {error}); trying again")

    def __enter__(self) -> "RunSync":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        push_again = Retrying(
            retry=retry_if_not_exception_type(RunError), stop=stop_after_attempt(5), wait=wait_fixed(2), reraise=True
        )
        push_again(self.push, is_last=True)


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
