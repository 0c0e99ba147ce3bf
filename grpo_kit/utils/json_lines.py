"""JSONL files: a row a line, of which the last one may be torn."""

from contextlib import suppress
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from pathlib import Path, PurePosixPath

import msgspec
import orjson

from grpo_kit.errors import RunError
from grpo_kit.utils.garbage import without_collector


def read_lines(path: Path) -> list[dict]:
    """The rows of a JSONL file. A last line that is still being written, or that a kill cut short, is left out.

    Raises RunError, naming the line, where another is no JSON.
    """
    return parse_lines(path.read_bytes(), path) if path.exists() else []


def parse_lines(content: bytes, name: Path | PurePosixPath) -> list[dict]:
    """The rows that `content` holds, as `read_lines` has them; `name` is for what is said of a bad line."""
    with without_collector():
        return _rows(_whole_lines(content), name)


def parse_columns(
    content: bytes, name: Path | PurePosixPath, row: type[msgspec.Struct] | None = None
) -> dict[str, list]:
    """The same rows by columns. Where all are as `row` says they take half the time: what it leaves as it is written,
    msgspec.Raw, is read once for all rows that have the same."""
    with without_collector():
        content = _whole_lines(content)
        if row and (rows := _all_at_once(content, msgspec.json.Decoder(row))):
            with suppress(*_UNREADABLE):
                return {field.name: _column(rows, field) for field in msgspec.structs.fields(row)}
        rows = _rows(content, name)
        return {column: [row.get(column) for row in rows] for column in dict.fromkeys(chain.from_iterable(rows))}


def _rows(content: bytes, name: Path | PurePosixPath) -> list[dict]:
    rows = _all_at_once(content, _OBJECTS)
    return _one_by_one(content, name) if rows is None else rows


def _column(rows: list[msgspec.Struct], field: msgspec.structs.FieldInfo) -> list:
    values = map(attrgetter(field.name), rows)
    if field.type is msgspec.Raw:
        values = map(lru_cache(None)(msgspec.json.decode), map(bytes, values))
    return list(values)


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OBJECTS = msgspec.json.Decoder(dict)


def _whole_lines(content: bytes) -> bytes:
    end = content.rfind(b"\n") + 1
    if end < len(content):
        try:
            orjson.loads(content[end:])
        except orjson.JSONDecodeError:
            return content[:end]
    return content


def _all_at_once(content: bytes, decoder: msgspec.json.Decoder) -> list | None:
    """The rows, where each line is one: twice as quick as line by line, and msgspec takes more than that as lines."""
    with suppress(*_UNREADABLE):
        rows = decoder.decode_lines(content)
        lines = content.count(b"\n") + (not content.endswith(b"\n") if content else 0)
        return rows if len(rows) == lines else None
    return None


def _one_by_one(content: bytes, name: Path | PurePosixPath) -> list[dict]:
    rows = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            row = orjson.loads(line) if line else None
        except orjson.JSONDecodeError as error:
            raise RunError(f"{name}:{number} is no JSON ({error}): mend or remove that line") from None
        if line and not isinstance(row, dict):
            raise RunError(f"{name}:{number} is no JSON object: mend or remove that line")
        rows += [row] if line else []
    return rows
