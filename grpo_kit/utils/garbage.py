"""Python's garbage collector switched off, where it would only look at objects that stay."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """Switches it off for a block that makes many objects, none of them garbage: looking takes longer than making."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def loading_libraries() -> Iterator[None]:
    """For importing transformers and libraries on top of it. The collector is off meanwhile and never looks at what was
    loaded: it would do so several times later and once more when the process ends, for 2 of 8 seconds in all.

    gc.freeze also hides all earlier objects for good. So it is not used in a notebook, whose figures and tables are to
    be freed, nor once transformers, and with it maybe a model, is loaded.
    """
    with without_collector():
        is_first = "transformers" not in sys.modules
        yield
        if is_first and "ipykernel" not in sys.modules:
            gc.freeze()
