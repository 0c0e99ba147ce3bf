"""grpo_kit: fine-tune small language models by GRPO on dialogue traces, from notebooks.

Each module is loaded when a name from it is first used: some need torch, and importing the kit should stay quick.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_kit.backends.run import runs as runs  # now, so that kit.runs is the function and not the package

if TYPE_CHECKING:
    from grpo_kit.backends.api import evaluate as evaluate, train as train, upload_data as upload_data
    from grpo_kit.backends.before_launch import doctor as doctor, quote as quote, smoke as smoke
    from grpo_kit.backends.modal.launch import deploy as deploy
    from grpo_kit.backends.publish import push as push
    from grpo_kit.backends.report import report as report
    from grpo_kit.backends.run import Run as Run
    from grpo_kit.backends.serving import serve as serve
    from grpo_kit.config.backend import backend as backend
    from grpo_kit.config.evaluation import EvalConfig as EvalConfig
    from grpo_kit.config.judge import JudgeConfig as JudgeConfig
    from grpo_kit.config.train import TrainConfig as TrainConfig
    from grpo_kit.data.samples import Sample as Sample, read_samples as read_samples
    from grpo_kit.data.splits import check_splits as check_splits
    from grpo_kit.errors import (
        BadTrace as BadTrace,
        ConfigError as ConfigError,
        RunError as RunError,
        RunStopped as RunStopped,
    )
    from grpo_kit.evaluation.compare import compare as compare
    from grpo_kit.evaluation.result import Evaluation as Evaluation
    from grpo_kit.judges.prepare import prepare as prepare
    from grpo_kit.models.chat import chat as chat
    from grpo_kit.models.export import export as export
    from grpo_kit.models.merge import merge as merge
    from grpo_kit.preflight.prepared import prepared as prepared
    from grpo_kit.preflight.prototype import prototype as prototype
    from grpo_kit.preflight.verdict import will_it_learn as will_it_learn
    from grpo_kit.sweeps.sweep import Sweep as Sweep, sweep as sweep, sweep_results as sweep_results
    from grpo_kit.training.probe import probe as probe

# Each public name's module: the imports above say it, which only type checkers make.
_IMPORTS = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.ImportFrom)]
_MODULES = {each.name: str(node.module) for node in _IMPORTS for each in node.names if each.asname == each.name}
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"grpo_kit has no {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
