"""Modal's volumes and names, as they are used from this machine: runs that are there, and data to put there."""

import hashlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import modal

from grpo_kit.config import ConfigError
from grpo_kit.demo import DATA_FILES, DEFAULT_DATA
from grpo_kit.places import write_bytes
from grpo_kit.runs import OutOfReach, Run, RunError

APP = "grpo-training"
DATA_VOLUME, RUNS_VOLUME, MODELS_VOLUME = "training-data", "grpo-checkpoints", "huggingface-cache"
GEMINI_SECRET, HUB_SECRET = "gemini-secret", "huggingface-secret"
CLAIMS = "grpo-claims"  # a modal.Dict: which call may write which run
RUNS = PurePosixPath("/runs")
PASSING = (modal.exception.ServiceError, modal.exception.InternalError, modal.exception.ResourceExhaustedError)


def volume(name: str) -> modal.Volume:
    return modal.Volume.from_name(name, create_if_missing=True)


@contextmanager
def modal_in_words() -> Iterator[None]:
    """Turns Modal's own errors into a RunError that says what to do."""
    try:
        yield
    except ValueError as error:
        if "metadata value" not in str(error):
            raise
        # Its text has the token.
        raise RunError("the Modal token holds characters that are in no token: run `modal setup`") from None
    except modal.exception.AuthError as error:
        raise RunError(f"Modal refuses the token: run `modal setup`. It says: {error}") from None
    except PASSING as error:
        raise OutOfReach(f"Modal can't answer now ({error}): try again in a while") from None
    except modal.exception.ConnectionError as error:
        raise OutOfReach(f"Modal can't be reached ({error}): check the network, or kit.backend('local')") from None


class VolumeFolder:
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

    def end(self, worker: dict) -> None:
        from grpo_kit.claims import end_claims

        with modal_in_words():
            end_claims(self.root.name)
            modal.FunctionCall.from_id(worker["call_id"]).cancel(terminate_containers=True)
        deadline = time.monotonic() + 30
        while self.fate(worker) is None and time.monotonic() < deadline:
            time.sleep(0.5)

    def fate(self, worker: dict) -> str | None:
        return fate_of_call(worker["call_id"])


def fate_of_call(call_id: str) -> str | None:
    """How a call ended, in words; None while it works or waits for a machine."""
    try:
        with modal_in_words():
            modal.FunctionCall.from_id(call_id).get(timeout=0)
    except TimeoutError:
        return None
    except modal.exception.FunctionTimeoutError:
        return "it ran out of its time, and of its retries"
    except RunError:  # Modal can't be asked; the kit's own errors are returned by its calls and not raised
        raise
    except (Exception, modal.exception.InputCancellation) as error:  # a remote error comes as the type that it was
        said = f"{type(error).__name__} {error}".strip()
        return f"its container ended: {said} (`modal app logs {APP}` has what it printed)"
    return f"its container ended without a word (`modal app logs {APP}` has what it printed)"


def runs_on_volume() -> list[str]:
    """Names of the runs on the volume, oldest first."""
    try:
        with modal_in_words():
            entries = volume(RUNS_VOLUME).listdir(str(RUNS))
    except (FileNotFoundError, modal.exception.NotFoundError):
        return []
    return sorted(PurePosixPath(entry.path).name for entry in entries)


def known_on_modal(run_id: str | None) -> Run | None:
    """The run of that name on the volume; None where there is none."""
    return Run.at(VolumeFolder(run_id), run_id) if run_id and run_id in runs_on_volume() else None


class Uploaded(NamedTuple):
    """A file of samples where training looks for it; its content was read back and is what was sent."""

    path: str
    bytes: int
    samples: int

    def __str__(self) -> str:
        return f"{self.path}: {self.samples} samples, {self.bytes} bytes, read back and the same"


def upload(files: dict[str, tuple[Path, int]], name: str | None) -> list[Uploaded]:
    """Puts files on the data volume and reads each back. `files`: where each is and how many samples it holds."""
    folder = PurePosixPath("/") / (name or "")
    done = []
    with modal_in_words():
        with volume(DATA_VOLUME).batch_upload(force=True) as batch:
            for target, (source, _) in files.items():
                batch.put_file(source, str(folder / target))
        for target, (source, samples) in files.items():
            there = b"".join(volume(DATA_VOLUME).read_file(str(folder / target)))
            if hashlib.sha256(there).digest() != hashlib.sha256(source.read_bytes()).digest():
                raise RunError(f"{source} was changed on its way to the volume {DATA_VOLUME}: upload it again")
            done.append(Uploaded(f"{DATA_VOLUME}:{folder / target}", len(there), samples))
    return done


def copy_here(files: dict[str, tuple[Path, int]], name: str | None) -> list[Uploaded]:
    """Puts files where training on this machine looks for them, and reads each back."""
    folder = Path("data") / name if name else Path(DEFAULT_DATA)
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    for target, (source, samples) in files.items():
        content = source.read_bytes()
        write_bytes(folder / target, content)
        if (folder / target).read_bytes() != content:
            raise RunError(f"{folder / target} is not what was written: is the disk full?")
        done.append(Uploaded(str(folder / target), len(content), samples))
    return done


def required_secrets(judges: dict[str, float], model_name: str) -> list[modal.Secret]:
    """The secrets that a run needs; the hub's only where it is there, since most models are free to download.

    Raises ConfigError for one that is missing.
    """
    secrets = []
    if "gemini" in judges:
        secret = modal.Secret.from_name(GEMINI_SECRET, required_keys=["GEMINI_API_KEY"])
        if not _exists(secret):
            force = "--force " if _exists(modal.Secret.from_name(GEMINI_SECRET)) else ""
            raise ConfigError(
                f"judge=gemini needs the Modal secret {GEMINI_SECRET} with GEMINI_API_KEY. Make it with\n"
                f"    modal secret create {force}{GEMINI_SECRET} GEMINI_API_KEY=…\n"
                f"(a key: https://aistudio.google.com/apikey), or take judge=offline"
            )
        secrets.append(secret)
    if "/" in model_name and _exists(secret := modal.Secret.from_name(HUB_SECRET)):
        secrets.append(secret)
    return secrets


def _exists(secret: modal.Secret) -> bool:
    with modal_in_words():
        try:
            secret.hydrate()
        except modal.exception.NotFoundError:
            return False
        return True


def data_to_upload(path: str | Path) -> dict[str, tuple[Path, int]]:
    """The files of samples that `path` names, a folder or one of its two files, with how many samples each holds.

    Raises ConfigError where there are none and BadTrace where one is not valid.
    """
    from grpo_kit.samples import read_samples

    path = Path(path)
    files = [file for file in map(path.joinpath, DATA_FILES) if file.is_file()] if path.is_dir() else [path]
    if not files or not path.exists():
        raise ConfigError(
            f"no train.jsonl in {path}. `grpo-kit prepare TRACES --out {DEFAULT_DATA}` makes one from your traces"
        )
    if odd := [file.name for file in files if file.name not in DATA_FILES]:
        raise ConfigError(f"{odd[0]}: should be called train.jsonl or eval.jsonl, by which training finds it")
    return {file.name: (file, sum(1 for _ in read_samples(file))) for file in files}
