"""Files of samples that are put where training looks for them."""

from pathlib import Path
from typing import NamedTuple

from grpo_kit.data.demo import DATA_FILES, DEFAULT_DATA
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.utils.files import write_bytes


class Uploaded(NamedTuple):
    """A file of samples where training looks for it; its content was read back and is what was sent."""

    path: str
    bytes: int
    samples: int

    def __str__(self) -> str:
        return f"{self.path}: {self.samples} samples, {self.bytes} bytes, read back and the same"


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


def data_to_upload(path: str | Path) -> dict[str, tuple[Path, int]]:
    """The files of samples that `path` names, a folder or one of its two files, with how many samples each holds.

    Raises ConfigError where there are none and BadTrace where one is not valid.
    """
    from grpo_kit.data.samples import read_samples

    path = Path(path)
    files = [file for file in map(path.joinpath, DATA_FILES) if file.is_file()] if path.is_dir() else [path]
    if not files or not path.exists():
        raise ConfigError(
            f"no train.jsonl in {path}. `grpo-kit prepare TRACES --out {DEFAULT_DATA}` makes one from your traces"
        )
    if odd := [file.name for file in files if file.name not in DATA_FILES]:
        raise ConfigError(f"{odd[0]}: should be called train.jsonl or eval.jsonl, by which training finds it")
    return {file.name: (file, sum(1 for _ in read_samples(file))) for file in files}
