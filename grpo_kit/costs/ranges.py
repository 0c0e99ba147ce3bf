"""Values that are not known well: low, likely and high, and how they are written."""

from collections.abc import Callable
from typing import NamedTuple

Range = tuple[float, float, float]  # low, likely, high


class Estimate(NamedTuple):
    """A range and where it comes from; None where nothing can be said."""

    range: Range | None
    source: str


def times(value: float, factors: Range) -> Range:
    low, likely, high = (value * factor for factor in factors)
    return low, likely, high


def total(*ranges: Range) -> Range:
    """The sum, as if all were low together, and high together."""
    low, likely, high = map(sum, zip(*ranges, strict=True))
    return low, likely, high


def range_text(values: Range, shown: Callable[[float], str]) -> str:
    """ "3.0 min (1.5 min to 6.0 min)"; `shown` writes one value."""
    low, likely, high = map(shown, values)
    return f"{likely} ({low} to {high})"
