"""Folders on Modal's volumes, as they are read and written from this machine: runs, and data."""

import io
import time
from pathlib import Path, PurePosixPath

import modal
from modal.volume import FileEntryType  # pyright: ignore[reportAttributeAccessIssue]  # modal's stubs leave it out

from grpo_kit.backends.modal.client import RUNS, RUNS_VOLUME, call_exit_reason, kit_errors, serving_url, volume
from grpo_kit.backends.modal.lease import revoke_lease
from grpo_kit.runs.directory import RunDirectory

SECONDS_TO_END = 30  # for a container that is killed


class VolumeStorage:
    """A folder on a volume, mostly a run's, as a runs.storage.Storage. Modal's own errors are raised as RunError."""

    backend = "modal"

    def __init__(self, name: str, volume_name: str = RUNS_VOLUME, folder: PurePosixPath = RUNS):
        self.root: Path | PurePosixPath = folder / name
        self._volume_name, self._volume = volume_name, volume(volume_name)

    def __str__(self) -> str:
        return f"volume {self._volume_name}, {self.root.relative_to('/')}"

    def read(self, name: str) -> bytes:
        with kit_errors():
            return b"".join(self._volume.read_file(str(self.root / name)))

    def write(self, name: str, content: bytes) -> None:
        with kit_errors(), self._volume.batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(content), str(self.root / name))

    def names(self) -> list[str]:
        with kit_errors():
            return [PurePosixPath(entry.path).name for entry in self._volume.listdir(str(self.root))]

    def download(self, to: Path) -> None:
        with kit_errors():
            for entry in self._volume.listdir(str(self.root), recursive=True):
                inside = PurePosixPath("/", entry.path).relative_to(self.root)
                if entry.type == FileEntryType.FILE and not any(part.startswith(".") for part in inside.parts):
                    (to / inside).parent.mkdir(parents=True, exist_ok=True)
                    with (to / inside).open("wb") as file:
                        self._volume.read_file_into_fileobj(str(self.root / inside), file)

    def delete(self) -> None:
        with kit_errors():
            self._volume.remove_file(str(self.root), recursive=True)

    def kill(self, worker: dict) -> None:
        with kit_errors():
            revoke_lease(self.root.name)
            modal.FunctionCall.from_id(worker["call_id"]).cancel(terminate_containers=True)
        deadline = time.monotonic() + SECONDS_TO_END
        while self.exit_reason(worker) is None and time.monotonic() < deadline:
            time.sleep(0.5)

    def exit_reason(self, worker: dict) -> str | None:
        return call_exit_reason(worker["call_id"])

    def is_served(self) -> bool:
        return serving_url(self.root.name) is not None


def runs_on_volume() -> list[str]:
    """Names of the runs on the volume, oldest first. Looking does not make the volume."""
    try:
        with kit_errors():
            there = modal.Volume.from_name(RUNS_VOLUME).listdir(str(RUNS))
        return sorted(PurePosixPath(entry.path).name for entry in there)
    except (FileNotFoundError, modal.exception.NotFoundError):
        return []


def known_on_modal(run_id: str | None) -> RunDirectory | None:
    """The run of that name on the volume; None where there is none."""
    return RunDirectory.at(VolumeStorage(run_id)) if run_id and run_id in runs_on_volume() else None
