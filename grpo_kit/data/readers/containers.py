"""Rows of data, whatever holds them: JSON lines, a JSON array, CSV, TSV, Parquet, a folder of these, or `datasets`."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

import msgspec
import orjson

from grpo_kit.data.readers.base import OnBad, Piece
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

    A row is a dict, or the bytes of its JSON; a JSON object with one of `fields` is one, and holds no others. One file, or one batch of a table's rows, is in memory at a time.
    Raises BadTrace where the input as a whole can't be read; what is bad further in goes to `on_bad`.
    """
    if on_hub := HUB.fullmatch(str(traces)):
        return _from_table(_load_from_hub(**on_hub.groupdict()), hub_name(traces), on_hub["name"])
    if any((traces / name).exists() for name in SAVED):
        return _from_table(_load_from_folder(traces), str(traces), traces.name)
    inside = sorted(traces.iterdir()) if traces.is_dir() else [traces]
    files = [path for path in inside if _kind(path) and path.name not in NO_DATA]
    return _from_files(files, fields, on_bad) if files else None


def _kind(path: Path) -> str:
    """What reads the file, by its name; "" for another file."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return suffix if suffix in READ and path.is_file() else ""


def _from_files(files: list[Path], fields: set[str], on_bad: OnBad) -> Iterator[Piece]:
    stems = Counter(_stem(path) for path in files)
    for path in files:
        name = _stem(path) if stems[_stem(path)] == 1 else path.name
        try:
            yield from READ[_kind(path)](path, name, fields)
        except (ValueError, RecursionError, EOFError, BadGzipFile) as problem:
            on_bad(BadTrace(f"not read to its end: {problem}", where=str(path)))


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


def _json(path: Path, name: str, fields: set[str]) -> Iterator[Piece]:
    """Lines of JSON, or one JSON text over all lines: an array of rows, an object that holds one, or a single row."""
    lines = numbered_lines(path)
    first, second = next(lines, (0, b""))[1], next(lines, (0, b""))[1]
    is_whole = _is_json(first) if not second else not (_is_json(first) or (_is_json(second) and first != b"["))
    if not is_whole:
        for number, line in numbered_lines(path):
            yield Piece(f"{path}:{number}", f"{name}-{number}", line)
        return
    with opened(path) as file:
        yield from _numbered(map(bytes, _rows_in(file.read().removeprefix(BOM), fields)), str(path), name)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except ValueError:
        return False
    return True


def _numbered(rows: Iterable[Any], where: str, name: str) -> Iterator[Piece]:
    for number, row in enumerate(rows, 1):
        yield Piece(f"{where}, row {number}", f"{name}-{number}", row)


def _rows_in(content: bytes, fields: set[str]) -> Iterable[msgspec.Raw | bytes]:
    whole = msgspec.json.decode(content, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
    if isinstance(whole, dict):
        lists = [rows for rows in map(_objects, whole.values()) if rows]
        return lists[0] if len(lists) == 1 and not whole.keys() & fields else [content]
    return whole if not whole or _objects(content) else [content]


def _objects(content: msgspec.Raw | bytes) -> list[msgspec.Raw]:
    """The items of a JSON array of objects that are no messages; empty where it is something else."""
    try:
        items = msgspec.json.decode(content, type=list[msgspec.Raw])
        first = msgspec.json.decode(items[0], type=dict[str, msgspec.Raw]) if items else {}
    except ValueError:
        return []
    return items if first and not first.keys() & {"role", "from", "parts"} else []


def _csv(path: Path, name: str, _fields: set[str]) -> Iterator[Piece]:
    with opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        header = text.readline()
        text.seek(0)
        rows = csv.DictReader(text, delimiter=max(",;\t", key=header.count), strict=True)
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
            yield {
                name: _without_nulls(value) if isinstance(value, list | dict) else value for name, value in row.items()
            }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _from_table(table: Any, where: str, name: str) -> Iterator[Piece]:
    return _numbered(_rows_of(table.with_format("arrow").iter(BATCH)), where, name)


def _load_from_folder(folder: Path) -> Any:
    from datasets import load_from_disk

    return _one_split(load_from_disk(folder), f"give one of the folders in {folder}", str(folder))


def _load_from_hub(name: str, config: str | None, split: str | None) -> Any:
    from datasets import load_dataset

    where = f"hf://{name}"
    try:
        found = load_dataset(name, config, split=split, streaming=True)
    except ConnectionError as problem:
        fix = f"Where there is a network, `hf download {name} --repo-type dataset --local-dir DIR`; then prepare DIR,"
        raise BadTrace(f"the hub can't be reached ({problem})", f"{fix} or its folder of files", where) from problem
    except (OSError, ValueError) as problem:
        fix = "Write hf://owner/name[/config][:split]; a private or gated one needs HF_TOKEN"
        raise BadTrace(f"not read from the hub: {problem}", fix, where) from problem
    return _one_split(found, f"write {where}{f'/{config}' if config else ''}:SPLIT", where)


def _one_split(found: Any, fix: str, where: str) -> Any:
    """A table, or of a dict of them the only one, or that called train."""
    if not isinstance(found, dict):
        return found
    if len(found) > 1 and "train" not in found:
        raise BadTrace(f"it has the splits {', '.join(found)}, and none is called train", f"To choose, {fix}", where)
    return found["train"] if "train" in found else next(iter(found.values()))
