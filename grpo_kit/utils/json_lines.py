"""JSONL files: a row a line, of which the last one may be torn."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec
import orjson

from grpo_kit.errors import RunError
from grpo_kit.utils.garbage import without_collector

Row = TypeVar("Row")
OF_STEPS = ("metrics.jsonl", "completions.jsonl", "eval_scores.jsonl", "sft_metrics.jsonl")


def read_lines(path: Path) -> list[dict]:
    """The rows of a JSONL file, empty where there is none; see `parse_lines`."""
    return parse_lines(path.read_bytes(), path, dict) if path.is_file() else []


def as_lines(rows: Iterable[dict]) -> bytes:
    """The content of a JSONL file; orjson writes what was not measured, NaN, as null."""
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def parse_lines(content: bytes, name: Path | PurePosixPath, kind: type[Row]) -> list[Row]:
    """The rows of a JSONL file's content; `kind` is dict, or a msgspec.Struct, which takes half the time.

    A last line that is still being written, or that a kill cut short, is left out. Raises RunError, naming the line of
    the file `name`, where another is no such row.
    """
    rows, decode, lines = [], msgspec.json.Decoder(kind).decode, content.split(b"\n")
    with without_collector():
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row: Any = decode(line)
                if kind is dict and name.name in OF_STEPS and not isinstance(row.get("step"), int):
                    raise ValueError("it has no step")
                rows.append(row)
            except (ValueError, RecursionError) as error:
                if number < len(lines):
                    raise RunError(f"{name}:{number} is not a row ({error})", "Correct or remove that line") from None
    return rows
