"""Files of samples, checked and put where training looks for them: a folder here, or Modal's data volume."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from grpo_kit.data.demo import DATA_FILES, DEFAULT_DATA
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.runs.storage import LocalStorage


class Uploaded(NamedTuple):
    """A file of samples where training looks for it, which was read back and is what was sent."""

    path: str
    bytes: int
    samples: int

    def __str__(self) -> str:
        return f"{self.path}: {self.samples} samples, {self.bytes} bytes, read back and the same"


def upload(path: str | Path, name: str | None, to_modal: bool) -> list[Uploaded]:
    """Puts the samples that `path` names, a folder or one of its two files, where `data=name` finds them; None: where
    the default finds them. Prints a line for each file.

    Raises ConfigError where there are none, BadTrace where one is not valid, and RunError where one was changed on its
    way.
    """
    files, done = _checked(Path(path)), []
    if to_modal:
        from grpo_kit.backends.modal.client import DATA_VOLUME
        from grpo_kit.backends.modal.storage import VolumeStorage

        storage, prefix = VolumeStorage(name or "", DATA_VOLUME, PurePosixPath("/")), f"{DATA_VOLUME}:"
    else:
        storage, prefix = LocalStorage(Path("data", name) if name else Path(DEFAULT_DATA)), ""
        storage.root.mkdir(parents=True, exist_ok=True)
    for file, samples in files.items():
        content, where = file.read_bytes(), f"{prefix}{storage.root / file.name}"
        storage.write(file.name, content)
        if storage.read(file.name) != content:
            raise RunError(f"{file} was changed on its way to {where}", "Upload it again")
        done.append(Uploaded(where, len(content), samples))
        print(done[-1])
    return done


def _checked(path: Path) -> dict[Path, int]:
    """The files to upload, with how many samples each holds."""
    from grpo_kit.data.samples import read_samples

    files = [path / name for name in DATA_FILES if (path / name).is_file()] if path.is_dir() else [path]
    if not files or not path.exists():
        fix = f"`grpo-kit prepare TRACES --out {DEFAULT_DATA}` makes one from your traces"
        raise ConfigError(f"no train.jsonl in {path}", fix)
    if odd := [file.name for file in files if file.name not in DATA_FILES]:
        raise ConfigError(f"{odd[0]}: should be called train.jsonl or eval.jsonl, by which training finds it")
    return {file: sum(1 for _ in read_samples(file)) for file in files}
