"""JSONL files: a row a line, of which the last one may be torn."""

from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath

import msgspec
import orjson

from grpo_kit.errors import RunError
from grpo_kit.utils.garbage import without_collector

_OBJECTS = msgspec.json.Decoder(dict)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_lines(path: Path) -> list[dict]:
    """The rows of a JSONL file. A last line that is still being written, or that a kill cut short, is left out.

    Raises RunError, naming the line, where another is no JSON object.
    """
    return _rows(_whole_lines(path.read_bytes()), path) if path.exists() else []


def parse_columns(
    content: bytes, name: Path | PurePosixPath, row: type[msgspec.Struct] | None = None
) -> dict[str, list]:
    """The rows of a JSONL file's content by columns, as `read_lines` has them; errors name the file `name`.

    Rows that are all as `row` says take half the time: its fields of type msgspec.Raw are decoded once for all rows
    that have the same bytes.
    """
    content = _whole_lines(content)
    with without_collector():
        if row and (rows := _all_at_once(content, msgspec.json.Decoder(row))):
            with suppress(*_UNREADABLE):
                return {field.name: _column(rows, field) for field in msgspec.structs.fields(row)}
        rows = _rows(content, name)
        return {column: [row.get(column) for row in rows] for column in dict.fromkeys(chain.from_iterable(rows))}


def _column(rows: list[msgspec.Struct], field: msgspec.structs.FieldInfo) -> list:
    values = [getattr(row, field.name) for row in rows]
    return list(map(lru_cache(None)(msgspec.json.decode), map(bytes, values))) if field.type is msgspec.Raw else values


def _whole_lines(content: bytes) -> bytes:
    end = content.rfind(b"\n") + 1
    with suppress(orjson.JSONDecodeError):
        orjson.loads(content[end:])
        return content
    return content[:end]


def _all_at_once(content: bytes, decoder: msgspec.json.Decoder) -> list | None:
    """The rows, where each line is one, twice as quickly as line by line; None where they are not all right."""
    with suppress(*_UNREADABLE):
        rows = decoder.decode_lines(content)
        if len(rows) == content.rstrip().count(b"\n") + 1:  # msgspec takes several rows on one line too
            return rows
    return None


def _rows(content: bytes, name: Path | PurePosixPath) -> list[dict]:
    with without_collector():
        if (rows := _all_at_once(content, _OBJECTS)) is not None:
            return rows
        rows = []
        for number, line in enumerate(content.split(b"\n"), 1):
            try:
                row = orjson.loads(line or b"null")
            except orjson.JSONDecodeError as error:
                raise RunError(f"{name}:{number} is no JSON ({error})", "Mend or remove that line") from None
            if line and not isinstance(row, dict):
                raise RunError(f"{name}:{number} is no JSON object", "Mend or remove that line")
            rows += [row] if line else []
        return rows
