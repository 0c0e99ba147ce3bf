"""Python's garbage collector, while it would look through everything again and again and find nothing."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """For what makes many objects, none of which is garbage: looking for it takes longer than making them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def loading_libraries() -> Iterator[None]:
    """For torch and what stands on it, which take seconds: a seventh less so. What is there afterwards stays for good,
    so the collector is told to leave it out from then on."""
    with without_collector():
        yield
        gc.freeze()
