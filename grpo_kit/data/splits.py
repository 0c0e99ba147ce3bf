"""Training and held-out samples kept apart: which split a trace goes to, and the proof that two files share nothing."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson

from grpo_kit.data.card import Tally
from grpo_kit.data.json_files import OnBad
from grpo_kit.data.readers import Trace
from grpo_kit.data.samples import Sample, messages_of, read_samples
from grpo_kit.errors import BadTrace


def allot(
    traces: Iterable[tuple[str, Trace]], eval_fraction: float, seed: int, tally: Tally, on_bad: OnBad
) -> Iterator[tuple[str, list[Sample]]]:
    """Yields each trace's split and samples, less those whose prompt or dialogue the other split knows."""
    with _ledger() as first_seen:
        for where, trace in traces:
            earlier = first_seen(b"name " + trace.name.encode(), where)
            if earlier is not None:
                on_bad(BadTrace(f"the id {trace.name!r} already stands in {earlier}", where=where))
                continue
            position = _position(trace.split_key, seed)
            split = "eval" if position < eval_fraction else "train"
            mine = (None, split)
            kept = trace.samples
            if not trace.is_apart:
                kept = [each for each in kept if first_seen(b"prompt " + _digest(each), split) in mine]
                dialogue = trace.samples[0].dialogue_id
                earlier = first_seen(b"dialogue " + dialogue.encode(), split) if kept and dialogue else None
                if earlier not in mine:
                    kept = []
            tally.left_out += len(trace.samples) - len(kept)
            if kept and earlier is None:
                tally.add_dialogue(split, position)
            yield split, kept


def check_splits(train: Path | str, eval: Path | str) -> None:
    """Checks that no dialogue and no prompt stands in both files. Raises BadTrace naming the first that does."""
    with _ledger() as first_seen:
        for split in map(str, (train, eval)):
            for sample in read_samples(split):
                keys = {"prompt": b"p" + _digest(sample)}
                if sample.dialogue_id:
                    keys["dialogue"] = b"d" + sample.dialogue_id.encode()
                for what, key in keys.items():
                    if first_seen(key, split) not in (None, split):
                        problem = f"its {what} stands in {train} too"
                        raise BadTrace(problem, "Prepare the data again", f"{split}, sample {sample.id}")


def _position(split_key: str, seed: int) -> float:
    """Where a trace stands in [0, 1), whatever else there is."""
    digest = hashlib.blake2b(f"{seed}\n{split_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _digest(sample: Sample) -> bytes:
    """The prompt's hash (16 bytes); a text and the one user message that says it are the same prompt."""
    return hashlib.blake2b(orjson.dumps(messages_of(sample.prompt)), digest_size=16).digest()


@contextmanager
def _ledger() -> Iterator[Callable[[bytes, str], str | None]]:
    """Gives a function that tells the place where a key was seen first; None if that is here and now.

    The keys are in a temporary file: memory stays flat however many there are.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as db:  # "" is a private file, gone when closed
        db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE seen (key BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID; BEGIN"
        )

        def first(key: bytes, place: str) -> str | None:
            if db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, place)).rowcount:
                return None
            return db.execute("SELECT place FROM seen WHERE key = ?", (key,)).fetchone()[0]

        yield first
