"""Large libraries loaded quickly: the garbage collector rests, and what they find out anew each time is remembered."""

import gc
import marshal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from grpo_kit.utils.files import CACHE, write_bytes

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
    sys.meta_path.insert(0, _StructureFinder)  # pyright: ignore[reportArgumentType]: find_spec is all that is needed
    try:
        with without_collector():
            is_first = "transformers" not in sys.modules
            yield
            if is_first and "ipykernel" not in sys.modules:
                gc.freeze()
    finally:
        metadata.packages_distributions = find_packages
        sys.meta_path.remove(_StructureFinder)  # pyright: ignore[reportArgumentType]


class _StructureFinder:
    """Has transformers keep the table of its models' modules: it reads 3,100 files to make it, twice, for a second.

    Only an installed transformers does, by its version: the files of one that is being worked on may change.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: object = None) -> Any:
        spec = PathFinder.find_spec(name, path, None) if name == "transformers.utils.import_utils" else None
        if not (spec and spec.origin and spec.loader and "site-packages" in spec.origin):
            return None
        load = spec.loader.exec_module

        def load_and_replace(module: Any) -> None:
            load(module)
            make = module.define_import_structure

            def remembered(module_path: str, prefix: str | None = None) -> Any:
                folder = Path(module_path)
                if "models" not in (folder.name, folder.parent.name):  # that of a single model is quick to make
                    return make(module_path, prefix)
                kept = CACHE / f"transformers-{metadata.version('transformers')}-{folder.name}-{prefix}.marshal"
                try:
                    return marshal.loads(kept.read_bytes())
                except (OSError, EOFError, ValueError, TypeError):
                    made = make(module_path, prefix)
                    with suppress(OSError):  # where nothing may be kept, it is made each time
                        CACHE.mkdir(parents=True, exist_ok=True)
                        write_bytes(kept, marshal.dumps(made))
                    return made

            module.define_import_structure = remembered

        spec.loader.exec_module = load_and_replace
        return spec
