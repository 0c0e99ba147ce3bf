"""JSON as users write it, read strictly: each problem names the file, the line and the column."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson

from grpo_kit.errors import BadTrace

OnBad = Callable[[BadTrace], None]  # is told of each bad piece; raises it, or notes it so that reading continues
T = TypeVar("T")

BOM = b"\xef\xbb\xbf"  # some editors begin a UTF-8 file with it
_JSON_NAMES = {str: "text", list: "a list"}


def json_lines(path: Path, on_bad: OnBad) -> Iterator[tuple[int, Any]]:
    """Yields line number (from 1) and content of each line that is not blank, one in memory at a time."""
    is_blank = True
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw := raw.removeprefix(BOM).strip():
                is_blank = False
                try:
                    row = orjson.loads(raw)
                except orjson.JSONDecodeError as error:
                    on_bad(_not_json(raw, error, path, number))
                else:
                    yield number, row
    if is_blank:
        on_bad(BadTrace("the file is empty", where=str(path)))


def load_json(path: Path) -> Any:
    """The content of a file that is one JSON value. Raises BadTrace."""
    raw = path.read_bytes().removeprefix(BOM)
    if not raw.strip():
        raise BadTrace("the file is empty", where=str(path))
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _not_json(raw, error, path) from None


def _not_json(raw: bytes, error: orjson.JSONDecodeError, path: Path, first_line: int = 1) -> BadTrace:
    line, column, what = error.lineno, error.colno, f"not valid JSON, or cut short ({error.msg})"
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        line, column = raw.count(b"\n", 0, wrong.start) + 1, wrong.start - raw.rfind(b"\n", 0, wrong.start)
        what = f"not UTF-8 (byte 0x{raw[wrong.start]:02x}); save the file as UTF-8"
    return BadTrace(what, where=f"{path}:{first_line + line - 1}:{column}")


def need(row: Any, name: str, kind: type[T]) -> T:
    """row[name], where `row` is an object that has it, and it is a text or a list, and not empty. Raises ValueError."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with a field {name!r}, found {_brief(row)}")
    if name not in row:
        raise ValueError(f"no field {name!r}; it has: {', '.join(row) or 'nothing'}")
    value = row[name]
    if not isinstance(value, kind):
        raise ValueError(f"field {name!r} must be {_JSON_NAMES[kind]}, not {_brief(value)}")
    check_filled(name, value)
    return value


def check_filled(name: str, value: object) -> None:
    """Raises ValueError where there is nothing in it, or only spaces."""
    if not value or (isinstance(value, str) and value.isspace()):
        raise ValueError(f"field {name!r} is empty")


def _brief(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else f"{text[:40]}…"
