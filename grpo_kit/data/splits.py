"""Training and held-out samples kept apart: which split a trace goes to, and the proof that two files share nothing."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import orjson
import xxhash

from grpo_kit.data.readers import OnBad, Trace
from grpo_kit.data.samples import Sample, messages_of, read_samples
from grpo_kit.errors import BadTrace


class Allotted(NamedTuple):
    """A trace's split and samples, less the `left_out` ones whose prompt or dialogue the other split has."""

    split: str  # "train" or "eval"
    samples: list[Sample]
    left_out: int
    is_new: bool  # whether it is the first of its dialogue
    repairs: Mapping[str, int]


def allot(traces: Iterable[tuple[str, Trace]], eval_fraction: float, seed: int, on_bad: OnBad) -> Iterator[Allotted]:
    """Decides which split each trace goes to.

    Remembers 64 bytes for each id that the user gave, and 8 for each prompt; 64 where one trace is split by its id.
    """
    names, dialogues, prompts = set[int](), set[int](), set[int]()
    by_opening = array("Q")  # prompts that share a split with their equals, until one is split by something else
    for where, trace in traces:
        name = _number(trace.name.encode())
        if trace.name and name in names:
            on_bad(BadTrace(f"the id {trace.name!r} occurs twice", "Give each dialogue its own id", where=where))
            continue
        is_eval = _position(trace.split_key, seed) < eval_fraction
        kept, is_new = trace.samples, True
        if trace.is_by_id and not prompts:
            prompts.update(by_opening)
        if prompts or trace.is_by_id:
            kept = [each for each in kept if _take(_digest(each), is_eval, prompts)]
        elif not trace.is_apart:
            by_opening.extend(_digest(each) + is_eval for each in kept)
        if trace.name:
            names.add(name)
        if (trace.is_by_id or (trace.name and not trace.is_apart)) and kept and kept[0].dialogue_id:
            dialogue = _number(kept[0].dialogue_id.encode())
            is_new = dialogue + is_eval not in dialogues
            if not _take(dialogue, is_eval, dialogues):
                kept = []
        left_out = len(trace.samples) - len(kept)
        yield Allotted("eval" if is_eval else "train", kept, left_out, is_new and bool(kept), trace.repairs)


def _take(number: int, is_eval: bool, taken: set[int]) -> bool:
    """Notes in `taken` that a split has what is called `number`, which is even, unless the other has it already."""
    if number + (not is_eval) in taken:
        return False
    taken.add(number + is_eval)
    return True


def check_splits(train: Path | str, eval: Path | str) -> None:
    """Checks that no dialogue and no prompt stands in both files. Raises BadTrace naming the first that does."""
    for what, key in (("prompt", _digest), ("dialogue", lambda sample: sample.dialogue_id)):
        trained_on = {key(sample) for sample in read_samples(train)} - {""}
        for sample in read_samples(eval):
            if key(sample) in trained_on:
                problem = f"its {what} is in {train} too"
                raise BadTrace(problem, "Prepare the data again", f"{eval}, sample {sample.id}")


def _position(split_key: str, seed: int) -> float:
    """Where a trace stands in [0, 1), whatever else there is."""
    digest = hashlib.blake2b(f"{seed}\n{split_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _digest(sample: Sample) -> int:
    """The prompt's number; a text and the one user message that says it are the same prompt."""
    return _number(orjson.dumps(messages_of(sample.prompt)))


def _number(text: bytes) -> int:
    """An even number below 2**60, of which Python takes no more memory, that stands for the text."""
    return xxhash.xxh3_64_intdigest(text) >> 5 << 1
