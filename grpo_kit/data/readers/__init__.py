"""Reads dialogue traces of every known format. A new format is one file here and its entry in READERS."""

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import orjson

from grpo_kit.data.readers.base import OnBad, Piece, Reader, ReadOptions, Trace
from grpo_kit.data.readers.chat import ChatReader
from grpo_kit.data.readers.samples import SampleReader
from grpo_kit.data.readers.sgd import SGDReader
from grpo_kit.errors import BadTrace

READERS: dict[str, type[Reader]] = {"sgd": SGDReader, "chat": ChatReader, "samples": SampleReader}
FORMATS = ("auto", *READERS)


_DEFAULTS = ReadOptions()


def read_traces(
    traces: Path, format: str, on_bad: OnBad, options: ReadOptions = _DEFAULTS
) -> Iterator[tuple[str, Trace]]:
    """Yields where each trace stands ("path:line") and the trace, in the order of the files' names.

    `traces` is a folder or a file, `format` one of FORMATS; "auto" finds out by the files' names and the pieces'
    fields, piece by piece. Raises BadTrace at once where nothing can be read; what is bad further in goes to
    `on_bad`, piece by piece.
    """
    known = READERS if format == "auto" else {format: READERS[format]}
    if not traces.exists():
        raise BadTrace("there is no such file or folder", where=str(traces))
    patterns = dict.fromkeys(reader.files for reader in known.values())
    for pattern in patterns:
        files = sorted(traces.glob(pattern)) if traces.is_dir() else [traces] * fnmatch(traces.name, pattern)
        if files:
            chosen = {name: reader for name, reader in known.items() if reader.files == pattern}
            readers = {name: reader(files[0].parent, options) for name, reader in chosen.items()}
            return _read(files, readers, on_bad)
    nearby = sorted({str(file.parent) for pattern in patterns for file in traces.glob(f"*/{pattern}")})
    fix = f"Did you mean {' or '.join(nearby[:4])}?" if nearby else "Give the files, or the folder that has them"
    raise BadTrace(f"no {' or '.join(patterns)} here", fix, str(traces))


def _read(files: list[Path], readers: dict[str, Reader], on_bad: OnBad) -> Iterator[tuple[str, Trace]]:
    first = next(iter(readers.values()))
    for path in files:
        for piece in first.pieces(path, on_bad):
            try:
                reader = first if len(readers) == 1 else _reader_of(piece, readers)
                trace = reader.trace(piece)
            except ValueError as problem:
                on_bad(BadTrace(str(problem), where=piece.where))
            else:
                for fault in trace.faults:
                    on_bad(BadTrace(fault, where=piece.where))
                yield piece.where, trace


def _reader_of(piece: Piece, readers: dict[str, Reader]) -> Reader:
    """The reader whose field the piece has. Raises ValueError where there is none."""
    fields = orjson.loads(piece.content)
    for reader in readers.values():
        if reader.field in fields:
            return reader
    wanted = " or ".join(f"{reader.field!r} ({name})" for name, reader in readers.items())
    raise ValueError(f"no field {wanted}; it has: {', '.join(map(str, fields)) or 'nothing'}")
