"""Traces in, samples out: `prepare` turns dialogue traces into a data set, split in two, with a card to describe it."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import orjson
from filelock import FileLock

from grpo_kit.data.card import Tally, licence_of
from grpo_kit.data.readers import FORMATS, read_traces
from grpo_kit.data.samples import fingerprint, to_lines
from grpo_kit.data.splits import allot
from grpo_kit.errors import BadTrace, ConfigError
from grpo_kit.utils.garbage import without_collector
from grpo_kit.utils.text import did_you_mean

TRAIN, EVAL, CARD = "train.jsonl", "eval.jsonl", "data_card.json"


class RubricWriter(Protocol):
    """Writes the rubrics of prepared samples."""

    def rewrite(self, path: Path) -> None:
        """Gives each sample of a prepared file its rubric."""

    def summary(self) -> dict:
        """The data card's entry about the rubrics."""
        ...


def prepare(
    traces: Path | str,
    out: Path | str,
    *,
    eval_fraction: float = 0.1,
    seed: int = 0,
    skip_bad: bool = False,
    format: str = "auto",
    make_rubric_writer: Callable[[], RubricWriter] | None = None,
) -> dict:
    """Writes train.jsonl, eval.jsonl and data_card.json into the folder `out`; returns the card's content.

    `traces` is an SGD folder (dialogues_*.json and schema.json), or a .jsonl file or a folder of them whose
    lines are chats ({"messages": [{"role", "content"}, …]}, of which every assistant message becomes a sample;
    optionally "dialogue_id" or "id", "rubric", "task_description") or ready-made samples ("prompt" and
    "ground_truth", optionally the other fields of `Sample`). `format` "auto" finds out by the content.

    About `eval_fraction` of the dialogues go to eval.jsonl. A hash of `seed` and a dialogue's opening message
    (a ready-made sample's dialogue_id, or prompt) decides, so nothing moves when files are added. No dialogue
    and no prompt ever stands in both files; the card counts the samples turned away for it as left_out_as_duplicate.

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
        raise ConfigError(f"eval_fraction must lie between 0 and 1, and is {eval_fraction}", "0.1 holds out a tenth")
    check_choice("format", format, FORMATS)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", "Name a folder to write the samples into")
    if out.resolve() == traces.resolve() or traces.resolve() in (out.resolve() / TRAIN, out.resolve() / EVAL):
        raise ConfigError(f"preparing {traces} into {out} would overwrite what is read", "Choose another folder")

    writer = make_rubric_writer() if make_rubric_writer else None
    tally = Tally()

    def on_bad(error: BadTrace) -> None:
        if not skip_bad:
            fix = "Mend it, or pass skip_bad (--skip-bad) to leave out what is bad"
            raise BadTrace(error.problem.what, fix, error.problem.where) from None
        tally.skip(str(error).replace(f"{traces if traces.is_dir() else traces.parent}/", ""))

    reader = read_traces(traces, format, on_bad)
    with _scratch_folder(out) as scratch:
        with (scratch / TRAIN).open("wb") as train, (scratch / EVAL).open("wb") as evaluation, without_collector():
            files = {"train": train, "eval": evaluation}
            for split, samples in allot(reader, eval_fraction, seed, tally, on_bad):
                files[split].write(to_lines(samples))
                tally.add(split, samples)
        _check_both_splits(tally, traces, eval_fraction)
        if writer:
            for name in (TRAIN, EVAL):
                writer.rewrite(scratch / name)
        card = {
            "source": Path(*traces.resolve().parts[-2:]).as_posix(),
            "licence": licence_of(traces),
            "eval_fraction": eval_fraction,
            "seed": seed,
            "rubrics": writer.summary() if writer else {"by": "schema"},
            "fingerprint": fingerprint([scratch / TRAIN, scratch / EVAL]),
            **tally.summary(),
        }
        (scratch / CARD).write_bytes(orjson.dumps(card, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        for name in (TRAIN, EVAL, CARD):
            os.replace(scratch / name, out / name)
    return card


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raises ConfigError for a value that is not one of `known`."""
    if value not in known:
        raise ConfigError(f"no {name} {value!r}; there are: {', '.join(known)}", did_you_mean(value, known).strip())


@contextmanager
def _scratch_folder(out: Path) -> Iterator[Path]:
    """A folder inside `out` for what is not whole yet. One process at a time has it, another one waits."""
    out.mkdir(parents=True, exist_ok=True)
    scratch, lock = out / ".prepare", out / ".prepare.lock"
    with FileLock(lock):
        shutil.rmtree(scratch, ignore_errors=True)  # a process that was killed left it
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch)
            lock.unlink()  # whoever waits for it sees that and makes its own
            if not any(out.iterdir()):
                out.rmdir()


def _check_both_splits(tally: Tally, traces: Path, eval_fraction: float) -> None:
    if all(tally.samples.values()):
        return
    where = str(traces)
    if not any(tally.samples.values()):
        raise BadTrace(f"nothing was left to write; skipped: {'; '.join(tally.skipped_first[:3])}", where=where)
    empty = "eval" if tally.samples["train"] else "train"
    problem = f"the input has {sum(tally.dialogues.values())} dialogue(s), and none falls to {empty}.jsonl"
    for scale in (10**digits for digits in range(1, 16)):  # the roundest fraction that parts them
        fraction = math.floor(tally.lowest * scale + 1 if empty == "eval" else tally.highest * scale) / scale
        if tally.lowest < fraction <= tally.highest:
            fix = f"Set eval_fraction to {fraction}, or give more data"
            raise BadTrace(f"{problem} with eval_fraction {eval_fraction}", fix, where)
    raise BadTrace(f"{problem}: they all open alike", "Give traces with at least two openings", where)
