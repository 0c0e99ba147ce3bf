"""Checkpoints that can be trusted: each has a manifest of its files, which is written last."""

import hashlib
import json
from pathlib import Path
from typing import Any

import xxhash

from grpo_kit.runs.directory import RunDirectory
from grpo_kit.utils.files import write_json

MANIFEST = "manifest.json"


def write_manifest(checkpoint: Path) -> None:
    """Writes down size and 128-bit XXH3 of each of its files, which is as quick to make as they are to read."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    write_json(checkpoint / MANIFEST, {path.relative_to(checkpoint).as_posix(): _described(path) for path in files})


def newest_whole(run: RunDirectory) -> tuple[Path | None, dict[str, str]]:
    """The newest checkpoint that agrees with its manifest, None where none does; and what is wrong with newer ones."""
    damaged = {}
    for checkpoint in map(Path, reversed(run.checkpoints)):
        if not (problem := _damage(checkpoint)):
            return checkpoint, damaged
        damaged[checkpoint.name] = problem
    return None, damaged


def _damage(checkpoint: Path) -> str | None:
    try:
        for name, described in json.loads((checkpoint / MANIFEST).read_bytes()).items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if _described(checkpoint / name) != described:
                return f"{name} is not as it was written"
    except (OSError, ValueError, AttributeError):
        return f"its {MANIFEST} is missing or can't be read"
    return None


def _described(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        # Any callable that makes a hash will do: https://docs.python.org/3/library/hashlib.html#hashlib.file_digest
        made = hashlib.file_digest(content, xxhash.xxh3_128)  # pyright: ignore[reportArgumentType]
        return {"bytes": file.stat().st_size, "xxh3_128": made.hexdigest()}
