"""Training and held-out samples kept apart: which split a trace goes to, and the proof that two files share nothing."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from grpo_kit.data.readers import OnBad, Trace
from grpo_kit.data.samples import Sample, messages_of, read_samples
from grpo_kit.errors import BadTrace


class Allotted(NamedTuple):
    """A trace's split and samples, less the `left_out` ones whose prompt or dialogue the other split has."""

    split: str  # "train" or "eval"
    samples: list[Sample]
    left_out: int
    is_new: bool  # whether it is the first of its dialogue


def allot(traces: Iterable[tuple[str, Trace]], eval_fraction: float, seed: int, on_bad: OnBad) -> Iterator[Allotted]:
    """Decides which split each trace goes to. Remembers each name, and 16 bytes a prompt where those can collide."""
    places: dict[str, str] = {}  # of names
    split_of_prompt: dict[bytes, str] = {}
    split_of_dialogue: dict[str, str] = {}
    for where, trace in traces:
        if trace.name in places:
            on_bad(BadTrace(f"the id {trace.name!r} already stands in {places[trace.name]}", where=where))
            continue
        places[trace.name] = where
        split = "eval" if _position(trace.split_key, seed) < eval_fraction else "train"
        kept, is_new = trace.samples, True
        if not trace.is_apart:
            kept = [each for each in kept if split_of_prompt.setdefault(_digest(each), split) == split]
            if kept and (dialogue := kept[0].dialogue_id):
                is_new = dialogue not in split_of_dialogue
                if split_of_dialogue.setdefault(dialogue, split) != split:
                    kept = []
        yield Allotted(split, kept, len(trace.samples) - len(kept), is_new and bool(kept))


def check_splits(train: Path | str, eval: Path | str) -> None:
    """Checks that no dialogue and no prompt stands in both files. Raises BadTrace naming the first that does."""
    for what, key in (("prompt", _digest), ("dialogue", lambda sample: sample.dialogue_id)):
        trained_on = {key(sample) for sample in read_samples(train)} - {""}
        for sample in read_samples(eval):
            if key(sample) in trained_on:
                problem = f"its {what} stands in {train} too"
                raise BadTrace(problem, "Prepare the data again", f"{eval}, sample {sample.id}")


def _position(split_key: str, seed: int) -> float:
    """Where a trace stands in [0, 1), whatever else there is."""
    digest = hashlib.blake2b(f"{seed}\n{split_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _digest(sample: Sample) -> bytes:
    """The prompt's hash (16 bytes); a text and the one user message that says it are the same prompt."""
    return hashlib.blake2b(orjson.dumps(messages_of(sample.prompt)), digest_size=16).digest()
