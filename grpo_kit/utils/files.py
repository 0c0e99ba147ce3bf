"""Files that are replaced in one move, folders to write into, and where the kit keeps what it can make again."""

import gzip
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from grpo_kit.errors import ConfigError, RunError

ELSEWHERE = "Name another folder"
CACHE = Path.home() / ".cache" / "grpo_kit"  # what the kit makes once and can make again


def opened(path: Path) -> BufferedReader | gzip.GzipFile:
    """The file to read, unpacked where its name ends in .gz."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def check_folder(folder: Path) -> None:
    """Raises ConfigError where nothing could be written into the folder, which need not be there yet."""
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
    except OSError as error:  # a name that is too long, a folder that can't be looked into
        raise ConfigError(f"{folder} can't be written to: {error.strerror}", ELSEWHERE) from None
    if not there.is_dir():
        raise ConfigError(f"{there} is a file", "Name a folder to write into")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{there} can't be written to", ELSEWHERE)


def check_new_folder(folder: Path) -> None:
    """Raises RunError for one that is there, and ConfigError where it can't be made."""
    if folder.exists():
        raise RunError(f"{folder} exists already", "Name a new folder")
    check_folder(folder)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the path of a partial file, or folder, for this thread alone to write. It replaces `path` when the block
    ends, and is removed where that is an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` in one move: a reader sees the old file or the new one, never half of either."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` in one move with `content` as JSON."""
    write_bytes(path, as_json(content))


def as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
