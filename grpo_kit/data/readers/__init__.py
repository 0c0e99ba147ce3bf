"""Reads dialogue traces of every known format. A new format is one file here and its entry in READERS."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from grpo_kit.data.readers.base import OnBad, Piece, Reader, ReadOptions, Trace
from grpo_kit.data.readers.chat import ChatReader
from grpo_kit.data.readers.containers import READ, find_rows, hub_name
from grpo_kit.data.readers.gemini import GeminiReader
from grpo_kit.data.readers.samples import ANSWERS, BESIDE, SYSTEMS, SampleReader
from grpo_kit.data.readers.sgd import SGDReader
from grpo_kit.data.readers.sharegpt import ShareGPTReader
from grpo_kit.data.repair import Found, plain_name
from grpo_kit.errors import BadTrace

READERS: dict[str, type[Reader]] = {  # of those of rows, the first whose field a row has reads it
    "sgd": SGDReader,
    "chat": ChatReader,
    "gemini": GeminiReader,
    "sharegpt": ShareGPTReader,
    "samples": SampleReader,
}
ROW_READERS = {name: reader for name, reader in READERS.items() if reader is not SGDReader}
FORMATS = ("auto", *READERS)
_FIELDS = {field for reader in ROW_READERS.values() for field in reader.fields}
# A field of these may have its name in other letters, where a row has none of its group as it should be.
_OF_CHATS = [_FIELDS, {*SYSTEMS, "systemInstruction"}, {"tools"}]
_OF_PROMPTS = [*_OF_CHATS, {*ANSWERS}, {"final_answer"}, *({name} for name in BESIDE)]


def read_traces(traces: Path, format: str, on_bad: OnBad, options: ReadOptions) -> Iterator[tuple[str, Trace]]:
    """Yields where each trace stands ("path:line") and the trace, in the order of the files' names.

    `traces` is a folder, a file or "hf://owner/name", `format` one of FORMATS; "auto" finds out by the files' names
    and the rows' fields, row by row. Raises BadTrace at once where nothing can be read; what is bad further in goes
    to `on_bad`, piece by piece.
    """
    if not traces.exists() and not hub_name(traces):
        raise BadTrace("there is no such file or folder", "Data on the hub is hf://owner/name", where=str(traces))
    pattern = SGDReader.files
    if format in ("auto", "sgd"):
        files = sorted(traces.glob(pattern)) if traces.is_dir() else [traces] * fnmatch(traces.name, pattern)
        if files:
            reader = SGDReader(files[0].parent, options)
            pieces = chain.from_iterable(reader.pieces(file, on_bad) for file in files)
            return _read(pieces, {"sgd": reader}, on_bad, options)
    if format != "sgd" and (rows := find_rows(traces, _FIELDS, on_bad)):
        known = ROW_READERS if format == "auto" else {format: ROW_READERS[format]}
        return _read(rows, {name: reader(traces, options) for name, reader in known.items()}, on_bad, options)
    patterns = [pattern] * (format in ("auto", "sgd")) + [f"*{suffix}" for suffix in READ] * (format != "sgd")
    nearby = sorted({str(file.parent) for pattern in patterns for file in traces.glob(f"*/{pattern}")})
    fix = f"Did you mean {' or '.join(nearby[:4])}?" if nearby else "Give the files, or the folder that has them"
    raise BadTrace(f"no {', '.join(patterns)} here", fix, str(traces))


def _read(
    pieces: Iterable[Piece], readers: dict[str, Reader], on_bad: OnBad, options: ReadOptions
) -> Iterator[tuple[str, Trace]]:
    for piece in pieces:
        try:
            if "sgd" in readers:
                trace = readers["sgd"].trace(piece)
            else:
                row, repairs = _named(_row(piece.content), options.strict)
                trace = _reader_of(row, readers).trace(piece._replace(content=row))
                trace = trace._replace(repairs={**trace.repairs, **repairs}) if repairs else trace
        except ValueError as problem:
            on_bad(BadTrace(str(problem), where=piece.where))
        else:
            for fault in trace.faults:
                on_bad(BadTrace(fault, where=piece.where))
            yield piece.where, trace


def _row(content: Any) -> dict[str, Any]:
    """A row's fields. Raises ValueError where it has none."""
    row = content if isinstance(content, dict) else orjson.loads(content)
    if isinstance(row, list):  # of messages
        return {"messages": row}
    if not isinstance(row, dict):
        raise ValueError(f"it is not a JSON object with fields, but {str(row)[:80]}")
    if None in row:
        raise ValueError("it has more cells than the header; a text with commas needs quotes")
    return row


def _named(row: dict[str, Any], strict: bool) -> tuple[dict[str, Any], Mapping[str, int]]:
    """The row with " Question" as "question", and the repairs. Raises ValueError where `strict` refuses them."""
    meant = _meant(tuple(row))
    if not meant:
        return row, {}
    found = Found(strict)
    for _ in meant:
        found.repaired("fields_renamed")
    return {meant.get(name, name): value for name, value in row.items()}, found.repairs


@lru_cache(100)
def _meant(names: tuple[str, ...]) -> dict[str, str]:
    """The fields of a row that are known in other letters, and their names as they are known."""
    meant, first = {}, {plain_name(name): name for name in reversed(names)}
    is_chat = not first.keys().isdisjoint(_FIELDS - {*SampleReader.fields})
    for group in _OF_CHATS if is_chat else _OF_PROMPTS:
        if group.isdisjoint(names):
            known = {plain_name(name): name for name in group}
            meant |= {first[plain]: name for plain, name in known.items() if plain in first}
    return meant


def _reader_of(row: dict[str, Any], readers: dict[str, Reader]) -> Reader:
    """The reader one of whose fields the row has. Raises ValueError where there is none."""
    for reader in readers.values():
        if any(row.get(field) is not None for field in reader.fields):
            return reader
    has = f"it has {', '.join(map(repr, row)) or 'nothing'}"
    if other := next((name for name, reader in ROW_READERS.items() if row.keys() & set(reader.fields)), ""):
        raise ValueError(f"no field of the format {', '.join(readers)}: {has}. --format {other} reads it")
    known = "; ".join(f"{name}: {', '.join(reader.fields)}" for name, reader in readers.items())
    raise ValueError(f"no field has a name known for a chat or a prompt: {has}. Rename the one that is ({known})")
