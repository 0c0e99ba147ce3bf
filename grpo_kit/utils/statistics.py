"""How sure a mean, or another statistic of a sample, is."""

from collections.abc import Callable
from functools import partial

import numpy as np

RESAMPLES = 10_000
_means = partial(np.mean, axis=1)


def bootstrap_interval(values: np.ndarray, seed: int, statistic: Callable[..., np.ndarray] = _means) -> list[float]:
    """Low and high end of the 95% percentile bootstrap interval of a statistic of `values`, shape (n, …).

    `statistic` maps resamples, shape (rows, n, …), to numbers, shape (rows,); those that are NaN, where it is not
    defined, are left out. Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; 10,000 resamples.
    For the differences of pairs it is the paired bootstrap. The n values count as independent of each other.
    """
    rng = np.random.default_rng(seed)
    some = 1000  # resamples at a time, to bound the memory
    draws = (values[rng.integers(len(values), size=(some, len(values)))] for _ in range(RESAMPLES // some))
    return np.nanquantile([statistic(drawn) for drawn in draws], [0.025, 0.975]).tolist()
