"""Python's garbage collector, while it would look through everything again and again and find nothing."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """For what makes many objects, none of which is garbage: to look for it takes longer than to make them, and adds a
    tenth to what torch and the libraries on it take to load."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
