"""Puts the stand-ins in the place of what needs torch: the trainer, and the models that an evaluation asks.

All else is the product's own: the run directory, claims and volumes, rewards and judges, stops, budgets and failures.
It is so in processes with STANDIN in their environment (STANDIN=trainer: the trainer alone) that have this folder on
PYTHONPATH, or in a container its files among the installed packages.
"""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

HERE = Path(__file__).parent
# What a test would wait for, in seconds: how often files are looked at and copied.
REPLACED = {
    "grpo_kit.backends.modal.sync": {"PUSH_SECONDS": 0.3},
    "grpo_kit.backends.watch": {"POLL_SECONDS": 0.2},
}


class Finder:
    """Finds the stand-in trainer, and the kit's own modules, in which it replaces something once they are loaded."""

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name == "grpo_kit.training.grpo":
            return importlib.util.spec_from_file_location(name, HERE / "standin_trainer.py")
        if name not in REPLACED:
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_replace(module) -> None:
            load(module)
            for replaced, value in REPLACED[name].items():
                getattr(module, replaced)  # else it was renamed
                setattr(module, replaced, value)

        spec.loader.exec_module = load_and_replace
        return spec


if stand_in := os.environ.get("STANDIN"):
    if stand_in != "trainer":
        from standin_models import REPLACED as MODELS

        REPLACED |= MODELS
    sys.meta_path.insert(0, Finder)
