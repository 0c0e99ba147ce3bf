"""Python's garbage collector at rest, where all that it would look at stays."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """For what makes many objects, none of which is garbage: to look for it takes longer than to make them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def loading_libraries() -> Iterator[None]:
    """For importing transformers and what stands on it. The collector rests meanwhile and never looks at what was
    loaded, which it would do some times afterwards and once more when the process ends: 4 of 9 seconds in all.

    What is there already it would never look at again either; so this is so before transformers is there, and with it
    a model that should be freed some day.
    """
    with without_collector():
        is_first = "transformers" not in sys.modules
        yield
        if is_first:
            gc.freeze()
