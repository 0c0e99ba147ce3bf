"""Rows of data, whatever holds them: JSON lines, a JSON array, CSV, TSV, Parquet, a folder of these, or `datasets`."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

import msgspec
import orjson

from grpo_kit.data.readers.base import OnBad, Piece
from grpo_kit.data.repair import plain_name, without_nulls
from grpo_kit.data.samples import BOM, numbered_lines
from grpo_kit.errors import BadTrace
from grpo_kit.utils.files import opened

HUB = re.compile(r"hf:/{1,2}(?P<name>[^/:]+/[^/:]+)(?:/(?P<config>[^:]+))?(?::(?P<split>.+))?")  # a Path has one slash
SAVED = ("state.json", "dataset_dict.json")  # one of them is in a folder of Dataset.save_to_disk
NO_DATA = {"data_card.json", "dataset_infos.json", "schema.json"}  # in a folder with data
BATCH = 1000  # rows of a table in memory at a time
csv.field_size_limit(2**31 - 1)


def hub_name(traces: Path) -> str:
    """ "hf://owner/name…", as it was written, where the path stands for data on the hub; else ""."""
    return re.sub(":/+", "://", str(traces)) if HUB.fullmatch(str(traces)) else ""


def find_rows(traces: Path, fields: set[str], on_bad: OnBad) -> Iterator[Piece] | None:
    """The rows of a file, a folder, or "hf://owner/name[/config][:split]"; None where there is no data.

    A row is a dict, or the bytes of its JSON. A JSON object without any of `fields` may hold an array of rows. One
    JSON text, or one batch of a table's rows, is in memory at a time. Raises BadTrace where the input as a whole can't
    be read; what is bad further in goes to `on_bad`.
    """
    if hub_name(traces) or any((traces / name).exists() for name in SAVED):
        tables = _load(traces).with_format("arrow").iter(BATCH)
        return _numbered(_rows_of(tables), hub_name(traces) or str(traces), traces.name)
    inside = sorted(traces.iterdir()) if traces.is_dir() else [traces]
    files = [path for path in inside if path.is_file() and _suffix(path) in READ and path.name not in NO_DATA]
    return _from_files(files, fields, on_bad) if files else None


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _from_files(files: list[Path], fields: set[str], on_bad: OnBad) -> Iterator[Piece]:
    for path in files:
        try:
            yield from READ[_suffix(path)](path, path.name.removesuffix(".jsonl"), fields)
        except (ValueError, RecursionError, EOFError, BadGzipFile) as problem:
            fix = "Save it as UTF-8" if isinstance(problem, UnicodeDecodeError) else "Correct it or export it again"
            on_bad(BadTrace(f"the file can't be read to its end: {problem}", fix, where=str(path)))


def _json(path: Path, name: str, fields: set[str]) -> Iterator[Piece]:
    """Lines of JSON, or one JSON text over all lines."""
    lines = numbered_lines(path)
    first, second = next(lines, (0, b""))[1], next(lines, (0, b""))[1]
    are_rows = bool(second) and first.startswith(b"{") and first.endswith(b"}")  # though bad they may be
    if are_rows or (_is_json(second) and first != b"[") or _is_json(first) == bool(second):
        for number, line in numbered_lines(path):
            yield Piece(f"{path}:{number}", f"{name}-{number}", line)
    else:
        with opened(path) as file:
            yield from _numbered(_rows_in(file.read().removeprefix(BOM), fields), str(path), name)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except ValueError:
        return False
    return True


def _rows_in(content: bytes, fields: set[str]) -> Iterable[bytes]:
    """The rows of a JSON array, or of the only array in an object without `fields`; any other object, and an array of
    messages, is a row."""
    if not content.lstrip().startswith(b"["):
        whole = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        arrays = [array for array in map(bytes, whole.values()) if array.startswith(b"[")]
        if len(arrays) != 1 or not fields.isdisjoint(map(plain_name, whole)):
            return [content]
        content = arrays[0]
    rows = msgspec.json.decode(content, type=list[msgspec.Raw])
    is_chat = bool(rows) and re.match(rb'{\s*"role"', bytes(rows[0]))
    return [content] if is_chat else map(bytes, rows)


def _numbered(rows: Iterable[Any], where: str, name: str) -> Iterator[Piece]:
    for number, row in enumerate(rows, 1):
        yield Piece(f"{where}, row {number}", f"{name}-{number}", row)


def _csv(path: Path, name: str, _fields: set[str]) -> Iterator[Piece]:
    with opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        header = text.readline()
        text.seek(0)
        rows = csv.DictReader(text, delimiter=max(",;\t", key=header.count), strict=True)
        if len({*(rows.fieldnames or ())}) < len(rows.fieldnames or ()):
            raise ValueError("its header has a name twice")
        try:
            for row in rows:
                yield Piece(f"{path}:{rows.line_num}", f"{name}-{rows.line_num}", row)
        except csv.Error as problem:
            raise ValueError(f"line {rows.line_num}: {problem}; are its quotes in pairs?") from None


def _parquet(path: Path, name: str, _fields: set[str]) -> Iterator[Piece]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        yield from _numbered(_rows_of(file.iter_batches(BATCH)), str(path), name)


READ = {".jsonl": _json, ".ndjson": _json, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}


def _rows_of(tables: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The rows of Arrow's tables. A null inside a column only says that another row has the field."""
    for table in tables:
        for row in table.to_pylist():
            yield {name: without_nulls(value) for name, value in row.items()}


def _load(traces: Path) -> Any:
    """The data set in a folder or on the hub: its only split, or that called train. Raises BadTrace."""
    from datasets import load_dataset, load_from_disk

    where = hub_name(traces) or str(traces)
    on_hub = HUB.fullmatch(str(traces))
    try:
        if on_hub:
            found: Any = load_dataset(on_hub["name"], on_hub["config"], split=on_hub["split"], streaming=True)
        else:
            found = load_from_disk(traces)
    except ConnectionError as problem:
        fetch = f"hf download {on_hub['name'] if on_hub else where} --repo-type dataset --local-dir DIR"
        fix = f"On a machine with a network run `{fetch}`; then prepare DIR, or the folder of files in it"
        raise BadTrace(f"the hub can't be reached ({problem})", fix, where) from problem
    except (OSError, ValueError) as problem:
        fix = "Write hf://owner/name[/config][:split]; private or gated data needs HF_TOKEN"
        raise BadTrace(f"`datasets` can't read it: {str(problem).partition(chr(10))[0]}", fix, where) from problem
    if not isinstance(found, dict):
        return found
    if len(found) > 1 and "train" not in found:
        fix = f"Choose one: {where}{':' if hub_name(traces) else '/'}{next(iter(found))}"
        raise BadTrace(f"it has the splits {', '.join(found)}, and none is called train", fix, where)
    return found.get("train", next(iter(found.values())))
