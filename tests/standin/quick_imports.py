"""transformers reads 3,100 files when it is imported, twice, to make a table of its modules: a second of each process.

The tests start some eighty that import it, so the table is kept in a file for them, by transformers' version.
"""

import sys

MODULE = "transformers.utils.import_utils"


class Finder:
    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name != MODULE:
            return None
        import os
        import pickle
        import tempfile
        from importlib.machinery import PathFinder
        from importlib.metadata import version
        from pathlib import Path

        spec = PathFinder.find_spec(name, path)
        load, models = spec.loader.exec_module, Path(spec.origin).parents[1] / "models"

        def load_and_replace(module) -> None:
            load(module)
            make = module.define_import_structure

            def remembered(module_path, prefix=None):
                if Path(module_path) not in (models, models / "__init__.py"):
                    return make(module_path, prefix)
                name = f"grpo_kit-tests-{os.getuid()}-transformers-{version('transformers')}-{prefix}.pickle"
                kept = Path(tempfile.gettempdir()) / name
                if not kept.exists():
                    partial = kept.with_suffix(f".{os.getpid()}")
                    partial.write_bytes(pickle.dumps(make(module_path, prefix)))
                    partial.replace(kept)
                return pickle.loads(kept.read_bytes())

            module.define_import_structure = remembered

        spec.loader.exec_module = load_and_replace
        return spec


sys.meta_path.insert(0, Finder)
