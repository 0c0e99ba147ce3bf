"""Python's garbage collector at rest, where all that it would look at stays."""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock, _loading = threading.Lock(), threading.RLock()
_resting, _was_on = 0, True  # how many have it rest now, and what it was before


@contextmanager
def without_collector() -> Iterator[None]:
    """For what makes many objects, none of which is garbage: to look for it takes longer than to make them."""
    global _resting, _was_on
    with _lock:
        if not _resting:
            _was_on = gc.isenabled()
            gc.disable()
        _resting += 1
    try:
        yield
    finally:
        with _lock:
            _resting -= 1
            if not _resting and _was_on:
                gc.enable()


@contextmanager
def loading_libraries() -> Iterator[None]:
    """For importing transformers and what stands on it. The collector rests meanwhile, and never looks at what was
    loaded: it would do so some times afterwards and once more when the process ends, for 2 of 8 seconds in all.

    Whatever is there already it would never look at again either, so a notebook, which may have figures and tables that
    are to be freed, goes without; and everywhere this is so only before transformers is there, and with it a model.
    """
    with _loading, without_collector():
        is_first = "transformers" not in sys.modules
        yield
        if is_first and "ipykernel" not in sys.modules:
            gc.freeze()
