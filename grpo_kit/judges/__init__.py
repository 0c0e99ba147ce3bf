"""What every judge is: samples and answers in, one verdict for each out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from grpo_kit.samples import Sample


@dataclass(frozen=True)
class Verdict:
    """A judgement of one answer.

    `score` is in [0, 1], or None when the judge could not answer: a failed judgement is no judgement, never a
    zero. `criteria` holds the part scores (each in [0, 1]) by name; `reason` is one line for people.
    """

    score: float | None
    reason: str = ""
    criteria: dict[str, float] = field(default_factory=dict)
    tokens: int = 0


class Judge(Protocol):
    """Scores answers. It takes many at once so that a judge may work on them together or side by side."""

    name: str
    version: str  # changes whenever the same answer could get another score; part of the cache key

    async def judge(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[Verdict]:
        """One verdict for each (sample, answer), in order. Must not raise for a single failed judgement."""
        ...
