"""Files that are replaced in one move, and where the kit keeps what it can make again."""

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

CACHE = Path.home() / ".cache" / "grpo_kit"  # what the kit makes once and can make again


def opened(path: Path) -> BufferedReader | gzip.GzipFile:
    """The file to read, unpacked where its name ends in .gz."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


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
