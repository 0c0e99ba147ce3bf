"""Where a run's files are: a folder on this machine. backends/modal/storage.py has the same for a Modal volume."""

import json
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import psutil

from grpo_kit.utils.files import write_bytes

SERVING_FILE = "serving.json"  # the process that serves the run on this machine, and its URL


class Storage(Protocol):
    backend: str  # "local" or "modal"

    @property
    def root(self) -> Path | PurePosixPath: ...
    def read(self, name: str) -> bytes: ...  # FileNotFoundError where there is no such file
    def write(self, name: str, content: bytes) -> None: ...
    def names(self) -> list[str]: ...  # the files and folders right in it
    def download(self, to: Path) -> None: ...
    def delete(self) -> None: ...
    def kill(self, worker: dict) -> None: ...  # at once; returns when what trains the run is gone
    def exit_reason(self, worker: dict) -> str | None: ...  # why the worker ended; None while it runs
    def is_served(self) -> bool: ...  # whether kit.serve serves it


class LocalStorage:
    backend = "local"

    def __init__(self, root: Path):
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        if (path := self.root / name).exists() and not path.is_file():
            raise FileNotFoundError(f"{path} is no file")  # a pipe would be waited for
        return path.read_bytes()

    def write(self, name: str, content: bytes) -> None:
        write_bytes(self.root / name, content)

    def names(self) -> list[str]:
        return [path.name for path in self.root.iterdir()]

    def download(self, to: Path) -> None:
        shutil.copytree(self.root, to, ignore=shutil.ignore_patterns(".*"))

    def delete(self) -> None:
        shutil.rmtree(self.root)

    def kill(self, worker: dict) -> None:
        if (process := self._process(worker)) is None:
            return
        family = [process, *process.children(recursive=True)]
        for act in (psutil.Process.suspend, psutil.Process.kill):  # suspended, none sees another end and writes why
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    act(each)
        psutil.wait_procs(family, timeout=10)

    def exit_reason(self, worker: dict) -> str | None:
        return None if self._process(worker) else "its process ended without a word"

    def is_served(self) -> bool:
        return bool((server := self.server()) and self._process(server))

    def server(self) -> dict[str, Any] | None:
        """The process that serves the run, or did before it ended, and its URL."""
        with suppress(FileNotFoundError):
            if self._is_own(found := json.loads(self.read(SERVING_FILE))):
                return found
        return None

    def worker(self, pid: int) -> dict[str, Any]:
        """How a process that works on the folder is found again."""
        return {"pid": pid, "created": psutil.Process(pid).create_time(), "folder": str(self.root.resolve())}

    def _is_own(self, worker: dict) -> bool:
        """Not where it works on another folder, of which this is a copy."""
        folder = Path(worker.get("folder", self.root))
        return not folder.exists() or folder.samefile(self.root)

    def _process(self, worker: dict):
        if "pid" in worker and self._is_own(worker):  # else it is a copy of a run that was made on Modal
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(worker["pid"])
                if process.create_time() == worker["created"] and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        return None
