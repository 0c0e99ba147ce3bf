"""Traces in, samples out: `prepare` turns dialogue traces into a data set, split in two, with a card to describe it.

formats.py reads the traces, samples.py says what a sample is.
"""

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, get_args

import orjson

from grpo_kit.data.readers.formats import Format, Trace, read_traces
from grpo_kit.data.samples import (
    BadTrace,
    Ledger,
    OnBad,
    Sample,
    did_you_mean,
    digests,
    fingerprint,
    prompt_words,
    to_lines,
)
from grpo_kit.errors import ConfigError
from grpo_kit.utils.garbage import without_collector

TRAIN, EVAL, CARD = "train.jsonl", "eval.jsonl", "data_card.json"
SCRATCH = ".prepare-"
REASONS_KEPT = 20  # how many of the skipped pieces the card names


class RubricWriter(Protocol):
    """Writes the rubrics of prepared samples."""

    def rewrite(self, path: Path) -> None:
        """Gives each sample of a prepared file its rubric."""

    def summary(self) -> dict:
        """What the data card says of the rubrics."""


def prepare(
    traces: Path | str,
    out: Path | str,
    *,
    eval_fraction: float = 0.1,
    seed: int = 0,
    skip_bad: bool = False,
    format: Format = "auto",
    make_rubric_writer: Callable[[], RubricWriter] | None = None,
) -> dict:
    """Write train.jsonl, eval.jsonl and data_card.json into the folder `out`; return the card's content.

    `traces` is an SGD folder (dialogues_*.json and schema.json), or a .jsonl file or a folder of them whose
    lines are chats ({"messages": [{"role", "content"}, …]}, of which every assistant message becomes a sample;
    optionally "dialogue_id" or "id", "rubric", "task_description") or ready-made samples ("prompt" and
    "ground_truth", optionally the other fields of `Sample`). `format` "auto" looks and sees.

    About `eval_fraction` of the dialogues go to eval.jsonl. A hash of `seed` and a dialogue's opening message
    (a ready-made sample's dialogue_id, or prompt) says which, so nothing moves when files are added. No dialogue
    and no prompt ever stands in both files: in an SGD folder equal prompts open alike; of JSON lines, where ready-made
    samples may stand, a ledger is kept, and the card counts as left_out_as_duplicate those it turned away.

    Each sample has the rubric that its acts and the schema, or its trace, give it; a chat may have none. With
    `make_rubric_writer` the writer that it makes rewrites them.

    Memory does not grow with the number of files, time does. The same input gives the same bytes.

    Raises BadTrace for input that cannot be used, naming the place; with `skip_bad` a bad dialogue, line or
    unreadable file is left out instead, and the card counts them and names the first. Raises ConfigError
    for settings that cannot work, and where Gemini can't be asked at all (no key, a wrong one, a model that is gone).
    Whatever is raised, `out` stays as it was, but for rubrics that were paid for.
    """
    traces, out = Path(traces), Path(out)
    if not 0 < eval_fraction < 1:
        raise ConfigError(f"eval_fraction must lie between 0 and 1, and is {eval_fraction}; 0.1 holds out a tenth")
    check_choice("format", format, get_args(Format))
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder to write the samples into")
    if out.resolve() == traces.resolve() or traces.resolve() in (out.resolve() / TRAIN, out.resolve() / EVAL):
        raise ConfigError(f"preparing {traces} into {out} would overwrite what is read; choose another folder")

    writer = make_rubric_writer() if make_rubric_writer else None
    tally = _Tally()

    def on_bad(error: BadTrace) -> None:
        if not skip_bad:
            hint = "mend it, or pass skip_bad (--skip-bad) to leave out what is bad"
            raise BadTrace(error.path, error.where, f"{error.problem}; {hint}") from None
        tally.skip(error)

    reader = read_traces(traces, format, on_bad)
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with _scratch_folder(out) as scratch:
            with (scratch / TRAIN).open("wb") as train, (scratch / EVAL).open("wb") as evaluation, without_collector():
                files = {"train": train, "eval": evaluation}
                for split, samples in _allot(reader, eval_fraction, seed, tally, on_bad):
                    files[split].write(to_lines(samples))
                    tally.add(samples, split)
            _check_both_splits(tally, traces, eval_fraction)
            if writer:
                for name in (TRAIN, EVAL):
                    writer.rewrite(scratch / name)
            card = {
                "source": Path(*traces.resolve().parts[-2:]).as_posix(),
                "licence": _licence(traces),
                "eval_fraction": eval_fraction,
                "seed": seed,
                "rubrics": writer.summary() if writer else {"by": "schema"},
                "fingerprint": fingerprint([scratch / TRAIN, scratch / EVAL]),
                **tally.summary(),
            }
            (scratch / CARD).write_bytes(orjson.dumps(card, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            for name in (TRAIN, EVAL, CARD):
                os.replace(scratch / name, out / name)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
    return card


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raises ConfigError for a value that is not one of `known`."""
    if value not in known:
        raise ConfigError(f"no {name} {value!r}{did_you_mean(value, known)}; there are: {', '.join(known)}")


@contextlib.contextmanager
def _scratch_folder(out: Path) -> Iterator[Path]:
    """A folder inside `out` for what is not whole yet. Those that killed runs left there are cleared away."""
    import fcntl

    lock = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # another run is at work here, or the file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in out.glob(f"{SCRATCH}*"):
                shutil.rmtree(left)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        with tempfile.TemporaryDirectory(dir=out, prefix=SCRATCH) as folder:
            yield Path(folder)
    finally:
        os.close(lock)


@dataclass
class _Tally:
    """What is counted while the samples pass by."""

    dialogues: dict[str, int] = field(default_factory=lambda: {"train": 0, "eval": 0})
    samples: dict[str, int] = field(default_factory=lambda: {"train": 0, "eval": 0})
    services: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    prompt_words: Counter[int] = field(default_factory=Counter)  # how many have this length
    answer_words: Counter[int] = field(default_factory=Counter)
    left_out: int = 0
    skipped: int = 0
    skipped_first: list[str] = field(default_factory=list)
    lowest: float = 1.0  # of the positions that decide the split
    highest: float = 0.0

    def add(self, samples: list[Sample], split: str) -> None:
        self.samples[split] += len(samples)
        self.prompt_words.update(prompt_words(samples))
        self.answer_words.update(len(sample.ground_truth.split()) for sample in samples)
        self.services.update(service for sample in samples for service in sample.services)
        self.acts.update(act.act for sample in samples for act in sample.acts)

    def skip(self, error: BadTrace) -> None:
        self.skipped += 1
        if self.skipped <= REASONS_KEPT:
            self.skipped_first.append(error.short)

    def summary(self) -> dict:
        return {
            "dialogues": self.dialogues,
            "samples": self.samples,
            "samples_per_service": dict(sorted(self.services.items())),
            "acts": dict(sorted(self.acts.items())),
            "prompt_words": _spread(self.prompt_words),
            "answer_words": _spread(self.answer_words),
            "left_out_as_duplicate": self.left_out,
            "skipped": {"count": self.skipped, "first": self.skipped_first},
        }


def _spread(lengths: Counter[int]) -> dict[str, float]:
    mean = sum(length * count for length, count in lengths.items()) / lengths.total()
    return {"min": min(lengths), "mean": round(mean, 2), "max": max(lengths)}


def _allot(
    reader: Iterable[Trace], eval_fraction: float, seed: int, tally: _Tally, on_bad: OnBad
) -> Iterator[tuple[str, list[Sample]]]:
    """Each trace's split and samples, less those that the other split knows."""
    with Ledger() as ledger:
        for trace in reader:
            earlier = ledger.first(b"name " + trace.name.encode(), f"{trace.path.name}{trace.where}")
            if earlier is not None:
                on_bad(BadTrace(trace.path, trace.where, f"the id {trace.name!r} already stands in {earlier}"))
                continue
            position = _position(trace.split_key, seed)
            split = "eval" if position < eval_fraction else "train"
            mine = (None, split)
            kept = trace.samples
            if not trace.is_apart:
                kept = [each for each, digest in digests(kept) if ledger.first(b"prompt " + digest, split) in mine]
                dialogue = trace.samples[0].dialogue_id
                earlier = ledger.first(b"dialogue " + dialogue.encode(), split) if kept and dialogue else None
                if earlier not in mine:
                    kept = []
            tally.left_out += len(trace.samples) - len(kept)
            if kept and earlier is None:
                tally.dialogues[split] += 1
                tally.lowest, tally.highest = min(tally.lowest, position), max(tally.highest, position)
            yield split, kept


def _position(split_key: str, seed: int) -> float:
    """Where a dialogue stands in [0, 1): eval takes what is below its fraction, whatever else there is."""
    digest = hashlib.blake2b(f"{seed}\n{split_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _check_both_splits(tally: _Tally, traces: Path, eval_fraction: float) -> None:
    if all(tally.samples.values()):
        return
    if not any(tally.samples.values()):
        raise BadTrace(traces, "", f"nothing was left to write; skipped: {'; '.join(tally.skipped_first[:3])}")
    empty = min(tally.samples, key=tally.samples.get)
    problem = f"the input has {sum(tally.dialogues.values())} dialogue(s), and none falls to {empty}.jsonl"
    for scale in (10**digits for digits in range(1, 16)):  # the roundest fraction that parts them
        fraction = math.floor(tally.lowest * scale + 1 if empty == "eval" else tally.highest * scale) / scale
        if tally.lowest < fraction <= tally.highest:
            problem += f" with eval_fraction {eval_fraction}; {fraction} would do, or more data"
            raise BadTrace(traces, "", problem)
    raise BadTrace(traces, "", f"{problem}: they all open alike, and two splits need two openings")


def _licence(traces: Path) -> dict[str, str] | None:
    """Name and first line of the licence file beside the traces or one folder up, if there is one."""
    folder = traces.resolve() if traces.is_dir() else traces.resolve().parent
    for file in [*sorted(folder.glob("LICEN[CS]E*")), *sorted(folder.parent.glob("LICEN[CS]E*"))]:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        return {"file": file.name, "title": next((line.strip() for line in lines if line.strip()), "")}
    return None
