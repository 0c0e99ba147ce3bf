"""Files that are replaced in one move, and where the kit keeps what it can make again."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CACHE = Path.home() / ".cache" / "grpo_kit"  # what the kit makes once and can make again


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the path of a partial file to write; it replaces `path` when the block ends without an error."""
    partial = path.with_name(f".{path.name}.partial")
    yield partial
    os.replace(partial, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` in one move: a reader sees the old file or the new one, never half of either."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` in one move with `content` as JSON."""
    write_bytes(path, as_json(content))


def as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
