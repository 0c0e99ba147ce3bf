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
POLLS = {"grpo_kit.backends.modal.sync": ("PUSH_SECONDS", 0.3), "grpo_kit.backends.watch": ("POLL_SECONDS", 0.2)}


class Finder:
    """Finds the stand-in trainer, and the kit's own module of models with some of its functions replaced."""

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name == "grpo_kit.training.grpo":
            return importlib.util.spec_from_file_location(name, HERE / "standin_trainer.py")
        if name in POLLS or (name == "grpo_kit.models.load" and os.environ["STANDIN"] != "trainer"):
            spec = PathFinder.find_spec(name, path)
            spec.loader.exec_module = _then_replace(spec.loader.exec_module)
            return spec
        return None


def _then_replace(load):
    def exec_module(module) -> None:
        load(module)
        if module.__name__ in POLLS:
            setattr(module, *POLLS[module.__name__])
            return
        import standin_models

        standin_models.replace_in(module)

    return exec_module


if os.environ.get("STANDIN"):
    sys.meta_path.insert(0, Finder)
