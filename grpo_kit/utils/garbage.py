"""Python's garbage collector switched off, where it would only look at objects that stay."""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata

_changing = threading.Lock()
_blocks, _was_on = 0, True  # how many blocks there are in all threads, and how it was before the first


@contextmanager
def without_collector() -> Iterator[None]:
    """Switches it off for a block that makes many objects, none of them garbage: looking takes longer than making."""
    global _blocks, _was_on
    with _changing:
        _was_on, _blocks = _was_on if _blocks else gc.isenabled(), _blocks + 1
        gc.disable()
    try:
        yield
    finally:
        with _changing:
            _blocks -= 1
            if _was_on and not _blocks:
                gc.enable()


@contextmanager
def loading_libraries() -> Iterator[None]:
    """For importing transformers and libraries on top of it. The collector is off meanwhile and never looks at what was
    loaded: it would do so several times later and once more when the process ends, for 2 of 8 seconds in all.

    gc.freeze also hides all earlier objects for good. So it is not used in a notebook, whose figures and tables are to
    be freed, nor once transformers, and with it maybe a model, is loaded.
    """
    find_packages = metadata.packages_distributions
    # transformers and TRL each ask for this table, which takes a fifth of a second to make.
    metadata.packages_distributions = cache(find_packages)
    try:
        with without_collector():
            is_first = "transformers" not in sys.modules
            yield
            if is_first and "ipykernel" not in sys.modules:
                gc.freeze()
    finally:
        metadata.packages_distributions = find_packages
