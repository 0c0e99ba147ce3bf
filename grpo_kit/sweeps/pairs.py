"""How sure a difference is: paired over the prompts that all runs of a sweep answered, seeds of a setting averaged.

So prompts are what chance is over; that another seed would do otherwise, only more seeds say.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from grpo_kit.utils.statistics import bootstrap_interval


class Difference(NamedTuple):
    mean: float
    low: float  # 95%
    high: float
    prompts: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def scores_by_prompt(evaluated: Sequence[Mapping[str, Any]], model: str) -> dict[str, float]:
    """Each prompt's mean score over runs of one setting, where all were judged. `model`: "trained" or "base"."""
    tables = [result.get("scores", {}).get(model, {}) for result in evaluated]
    shared = set.intersection(*(set(table) for table in tables)) if tables else set()
    found = {name: [table[name] for table in tables] for name in sorted(shared)}
    return {name: float(np.mean(scores)) for name, scores in found.items() if None not in scores}


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> Difference | None:
    """First less second on the prompts that both have; None where they share fewer than two."""
    shared = sorted(first.keys() & second.keys())
    if len(shared) < 2:
        return None
    values = np.array([first[name] - second[name] for name in shared])
    return Difference(float(values.mean()), *bootstrap_interval(values, seed=0), len(shared))
