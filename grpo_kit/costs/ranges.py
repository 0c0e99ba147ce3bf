"""Forecasts: a low, a likely and a high value, and where they come from."""

import math
from collections.abc import Callable
from typing import NamedTuple

Range = tuple[float, float, float]  # low, likely, high


class Estimate(NamedTuple):
    """A range and where it comes from; None where nothing can be said."""

    range: Range | None
    source: str


def times(value: float, factors: Range, most: float = math.inf) -> Range:
    """Each of the factors times the value, but no more than `most`."""
    low, likely, high = (min(value * factor, most) for factor in factors)
    return low, likely, high


def range_text(values: Range, shown: Callable[[float], str]) -> str:
    """ "3.0 min (1.5 min to 6.0 min)"; `shown` writes one value."""
    low, likely, high = map(shown, values)
    return f"{likely} ({low} to {high})"
