"""How sure a mean, or another statistic of a sample, is."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

RESAMPLES = 10_000
FEW = 10  # values; an interval of fewer is too narrow, and only a hint
_means = partial(np.mean, axis=1)


def interval_text(interval: Sequence[float], sign: str = "") -> str:
    """ "[0.30, 0.44]", or with sign "+" "[+0.30, +0.44]"; "(no interval: one prompt)" where the ends are NaN."""
    low, high = interval
    return "(no interval: one prompt)" if math.isnan(low) else f"[{low:{sign}.2f}, {high:{sign}.2f}]"


def bootstrap_interval(values: np.ndarray, seed: int, statistic: Callable[..., np.ndarray] = _means) -> list[float]:
    """Low and high end of the 95% percentile bootstrap interval of a statistic of `values`, shape (n, …).

    `statistic` maps resamples, shape (rows, n, …), to numbers, shape (rows,); those that are NaN, where it is not
    defined, are left out. Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; 10,000 resamples.
    For the differences of pairs it is the paired bootstrap. The n values count as independent of each other. Fewer than
    two have no interval: both ends are NaN.
    """
    if len(values) < 2:
        return [math.nan, math.nan]
    rng = np.random.default_rng(seed)
    some = 1000  # resamples at a time, to bound the memory
    draws = (values[rng.integers(len(values), size=(some, len(values)))] for _ in range(RESAMPLES // some))
    return np.nanquantile([statistic(drawn) for drawn in draws], [0.025, 0.975]).tolist()
