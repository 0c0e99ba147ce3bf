"""Batch arithmetic: a step's completions are made in passes and processes, and groups of one prompt divide them.

The rule for what is not given: a step stays as large as the recipe's, or as the defaults' 32 completions, or as near to
that as num_generations allows; where batch size and accumulation are both given, nothing is changed.
"""

import math
from collections.abc import Mapping
from typing import Any

BATCH, PASSES = "per_device_train_batch_size", "gradient_accumulation_steps"


def nearest_multiple(wanted: float, unit: int) -> int:
    """The multiple of `unit` nearest to what is wanted; at least one."""
    return max(1, round(wanted / unit)) * unit


def nearest_batches(batch: int, passes: int, processes: int, group: int) -> tuple[int, int]:
    """The batch size and accumulation nearest to `batch` and `passes` whose step the groups divide; one is changed."""

    def nearest(value: int, other: int) -> int:
        return nearest_multiple(value, group // math.gcd(group, other * processes))

    options = [(batch, nearest(passes, batch)), (nearest(batch, passes), passes)]
    return min(options, key=lambda option: abs(math.prod(option) - batch * passes))


def batches(completions: int, most: int) -> dict[str, int]:
    """The settings that make so many completions in a process: the largest batch of at most `most`, and its passes."""
    batch = next(size for size in range(min(most, completions), 0, -1) if completions % size == 0)
    return {BATCH: batch, PASSES: completions // batch}


def filled_in(given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, int]:
    """Batch size and accumulation by the rule above, as far as they are not given; none where a given one is no number,
    which its own check refuses. `usual` has all settings by recipe or default."""
    asked = {name: _number(given[name]) for name in (BATCH, PASSES) if name in given}
    processes, group = (_number(given.get(name, usual[name])) for name in ("num_processes", "num_generations"))
    if len(asked) == 2 or not processes or not group or 0 in asked.values():
        return {}
    per_step = usual[BATCH] * usual[PASSES]
    # A judge compares whole groups, which then can't span processes.
    whole = group * processes if given.get("judge_mode") == "group" else math.lcm(group, processes)
    if not asked:
        return batches(nearest_multiple(per_step, whole) // processes, usual[BATCH])
    [(name, value)] = asked.items()
    unit = whole // math.gcd(whole, value * processes)
    return {PASSES if name == BATCH else BATCH: nearest_multiple(per_step / (value * processes), unit)}


def _number(value: Any) -> int:
    """A whole number as Python, YAML or a shell gives it (8, "8", 8.0); 0 for anything else."""
    text = str(value).removesuffix(".0")
    return int(text) if text.isdecimal() else 0
