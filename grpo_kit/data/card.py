"""The data card: what prepared data holds, where it comes from, and what was left out of it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from grpo_kit.data.samples import Message, Sample, messages_of

REASONS_KEPT = 20  # how many of the skipped pieces the card names


@dataclass
class Tally:
    """Counts the samples while they pass by."""

    dialogues: dict[str, int] = field(default_factory=lambda: {"train": 0, "eval": 0})
    samples: dict[str, int] = field(default_factory=lambda: {"train": 0, "eval": 0})
    services: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    prompt_words: Counter[int] = field(default_factory=Counter)  # how many prompts have this length
    answer_words: Counter[int] = field(default_factory=Counter)
    left_out: int = 0
    skipped: int = 0
    skipped_first: list[str] = field(default_factory=list)
    lowest: float = 1.0  # of the positions that decide the split
    highest: float = 0.0

    def add_dialogue(self, split: str, position: float) -> None:
        self.dialogues[split] += 1
        self.lowest, self.highest = min(self.lowest, position), max(self.highest, position)

    def add(self, split: str, samples: list[Sample]) -> None:
        self.samples[split] += len(samples)
        self.prompt_words.update(_prompt_words(samples))
        self.answer_words.update(len(sample.ground_truth.split()) for sample in samples)
        self.services.update(service for sample in samples for service in sample.services)
        self.acts.update(act.act for sample in samples for act in sample.acts)

    def skip(self, reason: str) -> None:
        self.skipped += 1
        if self.skipped <= REASONS_KEPT:
            self.skipped_first.append(reason)

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


def _prompt_words(samples: Iterable[Sample]) -> Iterator[int]:
    """The length of each prompt in words; where one continues the prompt before it, only what is new is counted."""
    before: list[Message] = []
    words = 0
    for sample in samples:
        messages = messages_of(sample.prompt)
        if messages[: len(before)] != before:
            before, words = [], 0
        for message in messages[len(before) :]:
            words += len(message["content"].split())
        before = messages
        yield words


def _spread(lengths: Counter[int]) -> dict[str, float]:
    mean = sum(length * count for length, count in lengths.items()) / lengths.total()
    return {"min": min(lengths), "mean": round(mean, 2), "max": max(lengths)}


def licence_of(traces: Path) -> dict[str, str] | None:
    """Name and first line of the licence file beside the traces or one folder up, if there is one."""
    folder = traces.resolve() if traces.is_dir() else traces.resolve().parent
    for file in [*sorted(folder.glob("LICEN[CS]E*")), *sorted(folder.parent.glob("LICEN[CS]E*"))]:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        return {"file": file.name, "title": next((line.strip() for line in lines if line.strip()), "")}
    return None
