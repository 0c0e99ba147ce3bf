"""Batch arithmetic: a step's completions are made in passes and processes, and groups of one prompt divide them."""

import math


def nearest_batches(batch: int, passes: int, processes: int, group: int) -> tuple[int, int]:
    """The batch size and accumulation nearest to `batch` and `passes` whose step the groups divide; one is changed."""

    def nearest(value: int, other: int) -> int:
        unit = group // math.gcd(group, other * processes)
        return max(1, round(value / unit)) * unit

    options = [(batch, nearest(passes, batch)), (nearest(batch, passes), passes)]
    return min(options, key=lambda option: abs(math.prod(option) - batch * passes))


def batches(completions: int, most: int) -> dict[str, int]:
    """The settings that make so many completions in a process: the largest batch of at most `most`, and its passes."""
    batch = next(size for size in range(min(most, completions), 0, -1) if completions % size == 0)
    return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": completions // batch}
