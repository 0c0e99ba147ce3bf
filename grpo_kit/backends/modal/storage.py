"""Runs on Modal's volume, as they are read and written from this machine."""

import io
import time
from pathlib import Path, PurePosixPath

import modal

from grpo_kit.backends.modal.client import RUNS, RUNS_VOLUME, call_exit_reason, modal_in_words, volume
from grpo_kit.backends.modal.lease import end_claims
from grpo_kit.runs.directory import RunDirectory


class VolumeStorage:
    """A run's folder on the volume."""

    backend = "modal"

    def __init__(self, run_id: str):
        self.root = RUNS / run_id

    def __str__(self) -> str:
        return f"volume {RUNS_VOLUME}, {self.root.relative_to('/')}"

    def read(self, name: str) -> bytes:
        with modal_in_words():
            return b"".join(volume(RUNS_VOLUME).read_file(str(self.root / name)))

    def write(self, name: str, content: bytes) -> None:
        with modal_in_words(), volume(RUNS_VOLUME).batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(content), str(self.root / name))

    def remove(self, name: str) -> None:
        if name in self.names():
            volume(RUNS_VOLUME).remove_file(str(self.root / name))

    def names(self) -> list[str]:
        with modal_in_words():
            return [PurePosixPath(entry.path).name for entry in volume(RUNS_VOLUME).listdir(str(self.root))]

    def download(self, to: Path) -> None:
        with modal_in_words():
            for entry in volume(RUNS_VOLUME).listdir(str(self.root), recursive=True):
                inside = (PurePosixPath("/") / entry.path).relative_to(self.root)
                if entry.type == modal.volume.FileEntryType.FILE and not any(p.startswith(".") for p in inside.parts):
                    target = to / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as file:
                        volume(RUNS_VOLUME).read_file_into_fileobj(str(self.root / inside), file)

    def kill(self, worker: dict) -> None:
        with modal_in_words():
            end_claims(self.root.name)
            modal.FunctionCall.from_id(worker["call_id"]).cancel(terminate_containers=True)
        deadline = time.monotonic() + 30
        while self.exit_reason(worker) is None and time.monotonic() < deadline:
            time.sleep(0.5)

    def exit_reason(self, worker: dict) -> str | None:
        return call_exit_reason(worker["call_id"])


def runs_on_volume() -> list[str]:
    """Names of the runs on the volume, oldest first."""
    try:
        with modal_in_words():
            entries = volume(RUNS_VOLUME).listdir(str(RUNS))
    except (FileNotFoundError, modal.exception.NotFoundError):
        return []
    return sorted(PurePosixPath(entry.path).name for entry in entries)


def known_on_modal(run_id: str | None) -> RunDirectory | None:
    """The run of that name on the volume; None where there is none."""
    return RunDirectory.at(VolumeStorage(run_id), run_id) if run_id and run_id in runs_on_volume() else None
