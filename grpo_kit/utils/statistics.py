"""How sure a mean is."""

import numpy as np

RESAMPLES = 10_000


def bootstrap_interval(values: np.ndarray, seed: int) -> list[float]:
    """Low and high end of the 95% percentile bootstrap interval of the mean of `values`, shape (n,).

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; 10,000 resamples. For the differences
    of pairs it is the paired bootstrap: a resample draws whole pairs. Prompts count as independent of each other.
    """
    rng = np.random.default_rng(seed)
    some = 1000  # resamples at a time, to bound the memory
    means = [values[rng.integers(len(values), size=(some, len(values)))].mean(axis=1) for _ in range(RESAMPLES // some)]
    return np.quantile(means, [0.025, 0.975]).tolist()
