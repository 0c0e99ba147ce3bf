"""Python's garbage collector switched off, where it would only look at objects that stay."""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock, _loading = threading.Lock(), threading.RLock()
_resting, _was_on = 0, True  # how many blocks have it off now, and whether it was on before


@contextmanager
def without_collector() -> Iterator[None]:
    """Switches it off for a block that makes many objects, none of them garbage: looking takes longer than making."""
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
    """For importing transformers and libraries on top of it. The collector is off meanwhile and never looks at what was
    loaded: it would do so several times later and once more when the process ends, for 2 of 8 seconds in all.

    gc.freeze also hides all earlier objects for good. So it is not used in a notebook, whose figures and tables are to
    be freed, nor once transformers, and with it maybe a model, is loaded.
    """
    with _loading, without_collector():
        is_first = "transformers" not in sys.modules
        yield
        if is_first and "ipykernel" not in sys.modules:
            gc.freeze()
