"""JSONL files: a row a line, of which the last one may be torn."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import orjson

from grpo_kit.errors import RunError


@contextmanager
def without_collector() -> Iterator[None]:
    """Python looks for garbage again and again while many objects are made; of what is read here none is garbage, and
    looking takes longer than reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_lines(path: Path) -> list[dict]:
    """The rows of a JSONL file. A last line that is still being written, or that a kill cut short, is left out.

    Raises RunError, naming the line, where another is no JSON.
    """
    return parse_lines(path.read_bytes(), path) if path.exists() else []


def parse_lines(content: bytes, name: Path | PurePosixPath) -> list[dict]:
    lines = content.split(b"\n")
    with without_collector():
        try:
            return orjson.loads(b"[%b]" % b",".join(line for line in lines if line))  # in one go
        except orjson.JSONDecodeError:
            return _one_by_one(lines, name)


def _one_by_one(lines: list[bytes], name: Path | PurePosixPath) -> list[dict]:
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows += [orjson.loads(line)] if line else []
        except orjson.JSONDecodeError as error:
            if number < len(lines):
                raise RunError(f"{name}:{number} is no JSON ({error}): mend or remove that line") from None
    return rows
