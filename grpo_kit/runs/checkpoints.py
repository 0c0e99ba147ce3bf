"""Checkpoints that can be trusted: each has a manifest of its files, which is written last."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from grpo_kit.runs.directory import RunDirectory, checkpoint_step
from grpo_kit.utils.files import write_json

MANIFEST = "manifest.json"
NEEDED = ("optimizer.pt", "scheduler.pt", "trainer_state.json")  # what a checkpoint can't be resumed without


def write_manifest(checkpoint: Path) -> None:
    """Writes down size and 128-bit XXH3 of each of its files, which is as quick to make as they are to read."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    described = {path.relative_to(checkpoint).as_posix(): size_and_hash(path) for path in files}
    write_json(checkpoint / MANIFEST, {"step": checkpoint_step(checkpoint), "files": described})


def newest_whole(
    run: RunDirectory, among: Sequence[Path | PurePosixPath] | None = None
) -> tuple[Path | None, dict[str, str]]:
    """The newest checkpoint that agrees with its manifest, None where none does; and what is wrong with newer ones.
    `among`: the run's checkpoints, oldest first, unless others are given."""
    damaged = {}
    for checkpoint in map(Path, reversed(run.checkpoints if among is None else among)):
        if not (problem := _damage(checkpoint, is_older="schema_version" not in run.about)):
            return checkpoint, damaged
        damaged[checkpoint.name] = problem
    return None, damaged


def _damage(checkpoint: Path, is_older: bool) -> str | None:
    """The first thing that is wrong with it. Versions of the kit before manifests left none."""
    if is_older and not (checkpoint / MANIFEST).exists():
        missing = [name for name in NEEDED if not (checkpoint / name).is_file()]
        return f"{missing[0]} is missing" if missing else None
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        if not manifest["files"]:
            return f"its {MANIFEST} names no files"
        if manifest["step"] != checkpoint_step(checkpoint):
            return f"its {MANIFEST} is that of step {manifest['step']}"
        for name, described in manifest["files"].items():
            if not (checkpoint / name).is_file():
                return f"{name!r} is missing"
            if size_and_hash(checkpoint / name) != described:
                return f"{name!r} is not as it was written"
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return f"its {MANIFEST} is missing or can't be read"
    return None


def size_and_hash(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        # Any callable that makes a hash will do: https://docs.python.org/3/library/hashlib.html#hashlib.file_digest
        made = hashlib.file_digest(content, xxhash.xxh3_128)  # pyright: ignore[reportArgumentType]
        return {"bytes": file.stat().st_size, "xxh3_128": made.hexdigest()}
